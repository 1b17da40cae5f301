"""Which part of which machine a replica gets: slow, pure."""
