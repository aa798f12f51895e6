"""Batches for training: windows, groups and captions drawn by (seed, index)."""
