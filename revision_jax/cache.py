"""The user's cache folder, and the compiled programs in it."""

import logging
import os
from pathlib import Path

from revision_jax.rules import check_local
from revision_jax.units import GIB

MAX_BYTES = 2 * GIB  # of compiled programs; those not used for longest go first
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$REVISION_JAX_CACHE`, by default `~/.cache/revision_jax`."""
    folder = os.environ.get("REVISION_JAX_CACHE") or "~/.cache/revision_jax"
    check_local("REVISION_JAX_CACHE", folder)
    return Path(folder).expanduser()


def keep_programs() -> None:
    """Has JAX keep what it compiles in the cache folder, so that the next start does not compile it again.

    Called before JAX is imported. Who sets `JAX_COMPILATION_CACHE_DIR` (or `JAX_ENABLE_COMPILATION_CACHE=0`) decides.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs are not kept, and compiled again at every start: %s", error)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MAX_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # many small programs make a start slow
