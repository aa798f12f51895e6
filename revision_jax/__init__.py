"""revision_jax: find when an event happens in an hour-long video (ReVisionLLM in JAX).

The public API is `load_run(workdir)`, whose `ground(video, sentences)` gives ranked moments.
"""

import os
import signal
import sys

__version__ = "0.1.0"
__all__ = ["load_run"]
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it: nobody starts it again


def leave(*_) -> None:
    """Ctrl-C while a verb is still being imported: one line, the exit code of shells."""
    os.write(2, b"interrupted before anything was done\n")
    os._exit(INTERRUPTED)


if sys.argv[:1] == ["-m"]:  # python -m revision_jax.VERB, until `verb.run`
    signal.signal(signal.SIGINT, leave)


def __getattr__(name: str):
    # Not imported above: a verb's `--help` must not wait for JAX.
    if name == "load_run":
        from revision_jax.runs.run import load_run

        return load_run
    raise AttributeError(f"module 'revision_jax' has no attribute {name!r}; its public API is {__all__}")
