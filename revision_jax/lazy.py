"""Modules that are loaded when they are first used, so that `--help` is quick.

One mechanism for all verbs: their imports stand at the top of their files, and these modules run at the first look into
them (`importlib.util.LazyLoader`). A verb imports the module, not its names: a name would be that first look.
"""

import importlib.util
import sys

# What verbs call: each costs seconds to load (JAX, transformers), and a person who asks for help needs none of them.
LAZY = (
    "revision_jax.ahead.compiling",
    "revision_jax.checkpoint",
    "revision_jax.data.video.frames",
    "revision_jax.evaluation.evaluate",
    "revision_jax.interop.conversion",
    "revision_jax.parallel.multihost",
    "revision_jax.preparation.commands",
    "revision_jax.prompts",
    "revision_jax.report.table",
    "revision_jax.runs.answers",
    "revision_jax.runs.exporting",
    "revision_jax.runs.converting",
    "revision_jax.runs.run",
    "revision_jax.runs.training",
    "revision_jax.training.loop",
    "revision_jax.training.preemption",
)


def _load_when_used(name: str) -> None:
    """Puts a module into `sys.modules` that runs its file at the first look into it."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    package, _, leaf = name.rpartition(".")
    setattr(sys.modules[package], leaf, module)


def install() -> None:
    """Makes the modules of `LAZY` load when they are first used."""
    for name in LAZY:
        _load_when_used(name)
