"""What the recipe of a config will cost on a machine: counts, FLOPs, bytes, and assumptions with their sources."""
