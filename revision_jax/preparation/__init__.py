"""The commands of `python -m revision_jax.prepare`."""
