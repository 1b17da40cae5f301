"""C2SP transparency-log formats, to the byte: notes, checkpoints, Merkle trees, tiles and proofs. Pure."""
