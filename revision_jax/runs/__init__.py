"""Runs: what a stage is, and what a config, a work folder and a mesh make of it."""
