"""A node's side: keep an engine alive inside its sandbox, and try to break out of it."""
