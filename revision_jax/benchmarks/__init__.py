"""Measurements: `python -m revision_jax.benchmarks.<name>`, one JSON line each."""
