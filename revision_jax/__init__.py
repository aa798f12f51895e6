"""revision_jax: find when an event happens in an hour-long video (ReVisionLLM in JAX)."""

__version__ = "0.1.0"
