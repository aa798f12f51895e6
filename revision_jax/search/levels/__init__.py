"""The levels of a search: dense windows, and groups of windows above them."""
