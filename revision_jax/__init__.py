"""revision_jax: find when an event happens in an hour-long video (ReVisionLLM in JAX).

The public API is `load_run(workdir)`, whose `ground(video, sentences)` gives ranked moments.
"""

__version__ = "0.1.0"
__all__ = ["load_run"]


def __getattr__(name: str):
    # Not imported above: a verb's `--help` must not wait for JAX.
    if name == "load_run":
        from revision_jax.runs.run import load_run

        return load_run
    raise AttributeError(f"module 'revision_jax' has no attribute {name!r}; its public API is {__all__}")
