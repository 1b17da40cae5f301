// An independent check of a log that Daulat wrote, by the libraries of Go's checksum database (golang.org/x/mod/sumdb).
//
//	check FOLDER      verify FOLDER/checkpoint by FOLDER/vkey, all tiles, bundles, and the proofs in FOLDER/proofs.json
//	sign KEY          sign the note text on standard input with a private key; the signed note goes to standard output
//
// It exits with 1 and says why on standard error when anything does not hold.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type proofs struct {
	Records []struct {
		Index int64
		Proof tlog.RecordProof
	}
	Trees []struct {
		Size  int64
		Root  tlog.Hash
		Proof tlog.TreeProof
	}
}

// tiles reads a folder laid out as c2sp.org/tlog-tiles says: Go's paths without the height.
type tiles string

func (folder tiles) path(tile tlog.Tile) string {
	return filepath.Join(string(folder), strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1))
}

func (folder tiles) Height() int { return height }

func (folder tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		data, err := os.ReadFile(folder.path(tile))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func (folder tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "check":
		err = check(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "sign":
		err = sign(os.Args[2])
	default:
		err = fmt.Errorf("usage: check FOLDER | sign KEY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sign(key string) error {
	signer, err := note.NewSigner(key)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(signed)
	return err
}

func check(folder string) error {
	tree, err := checkpoint(folder)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	reader := tlog.TileHashReader(tree, tiles(folder))
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil || root != tree.Hash {
		return fmt.Errorf("root: %v, the checkpoint says %v (%w)", root, tree.Hash, err)
	}
	entries, err := bundles(folder, tree)
	if err != nil {
		return fmt.Errorf("bundles: %w", err)
	}
	if err := allTiles(folder, tree, entries); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	if err := allProofs(folder, tree, reader, entries); err != nil {
		return fmt.Errorf("proofs: %w", err)
	}
	fmt.Println(tree.N)
	return nil
}

// checkpoint opens the signed note, and reads the text as c2sp.org/tlog-checkpoint has it (Go's own has a fixed origin).
func checkpoint(folder string) (tlog.Tree, error) {
	var tree tlog.Tree
	vkey, err := os.ReadFile(filepath.Join(folder, "vkey"))
	if err != nil {
		return tree, err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return tree, err
	}
	signed, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		return tree, fmt.Errorf("malformed text %q", opened.Text)
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// published lists the tiles that a log of this size has: the widest of each place (Go lists all earlier widths too).
func published(tree tlog.Tree) []tlog.Tile {
	var found []tlog.Tile
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		last := len(found) - 1
		if last >= 0 && found[last].L == tile.L && found[last].N == tile.N {
			found[last] = tile
		} else {
			found = append(found, tile)
		}
	}
	return found
}

// allTiles computes the tree from the entries, and every tile of it, and compares.
func allTiles(folder string, tree tlog.Tree, entries [][]byte) error {
	var stored []tlog.Hash
	memory := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = stored[index]
		}
		return found, nil
	})
	for number, entry := range entries {
		hashes, err := tlog.StoredHashes(int64(number), entry, memory)
		if err != nil {
			return err
		}
		stored = append(stored, hashes...)
	}
	if root, err := tlog.TreeHash(tree.N, memory); err != nil || root != tree.Hash {
		return fmt.Errorf("the entries lead to %v, the checkpoint says %v (%w)", root, tree.Hash, err)
	}
	for _, tile := range published(tree) {
		want, err := tlog.ReadTileData(tile, memory)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(tiles(folder).path(tile))
		if err != nil {
			return err
		}
		if !bytes.Equal(data, want) {
			return fmt.Errorf("%s differs", tile.Path())
		}
	}
	return nil
}

// bundles reads all entries.
func bundles(folder string, tree tlog.Tree) ([][]byte, error) {
	var entries [][]byte
	for _, tile := range published(tree) {
		if tile.L != 0 {
			continue
		}
		name := strings.Replace(tiles("").path(tile), "tile/0/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		for i := 0; i < tile.W; i++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return nil, fmt.Errorf("%s is cut short", name)
			}
			entry := data[2 : 2+int(binary.BigEndian.Uint16(data))]
			data = data[2+len(entry):]
			entries = append(entries, entry)
		}
		if len(data) != 0 {
			return nil, fmt.Errorf("%s is too long", name)
		}
	}
	return entries, nil
}

// allProofs checks Daulat's proofs, and that Go proves the same in the same words.
func allProofs(folder string, tree tlog.Tree, reader tlog.HashReader, entries [][]byte) error {
	data, err := os.ReadFile(filepath.Join(folder, "proofs.json"))
	if err != nil {
		return err
	}
	var given proofs
	if err := json.Unmarshal(data, &given); err != nil {
		return err
	}
	for _, record := range given.Records {
		leaf := tlog.RecordHash(entries[record.Index])
		if err := tlog.CheckRecord(record.Proof, tree.N, tree.Hash, record.Index, leaf); err != nil {
			return fmt.Errorf("record %d: %w", record.Index, err)
		}
		own, err := tlog.ProveRecord(tree.N, record.Index, reader)
		if err != nil || fmt.Sprint(own) != fmt.Sprint(record.Proof) {
			return fmt.Errorf("record %d: Go proves it otherwise (%w)", record.Index, err)
		}
	}
	for _, older := range given.Trees {
		if err := tlog.CheckTree(older.Proof, tree.N, tree.Hash, older.Size, older.Root); err != nil {
			return fmt.Errorf("tree %d: %w", older.Size, err)
		}
		own, err := tlog.ProveTree(tree.N, older.Size, reader)
		if err != nil || fmt.Sprint(own) != fmt.Sprint(older.Proof) {
			return fmt.Errorf("tree %d: Go proves it otherwise (%w)", older.Size, err)
		}
	}
	if len(given.Records) == 0 {
		return fmt.Errorf("none given")
	}
	return nil
}
