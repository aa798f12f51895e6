"""PyTorch weights of others in: a published stage as a run, and single parts by `interop.conversion`."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from revision_jax import __version__
from revision_jax import config as configs
from revision_jax.fingerprints import fingerprint
from revision_jax.interop.check import Comparison
from revision_jax.interop.conversion import CONVERTERS, from_llama
from revision_jax.interop.output import MANIFEST, check_free, copy_tokenizer, output_folder, write_json
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.importing import check_import, import_stage
from revision_jax.units import GIB

STAGE = "stage"
log = logging.getLogger(__name__)


def convert(
    form: str, source: str | Path, out: str | Path, *, options: Mapping[str, Any] = {}, spec: str = configs.DEFAULT,
    fields: Mapping[str, Any] = {},
) -> dict[str, Any]:  # fmt: skip
    """Writes `source` into the new folder `out`; returns what its manifest.json holds.

    Args:
      form: `stage`, or a key of `CONVERTERS`.
      options: some of dtype (of the weights written; default the source's, gguf: float32), shard_gib (largest weight
        file; default 1), tokenizer (a directory whose tokenizer files are copied), adapter (of `llama`: a directory of
        PEFT that is folded in), check (read back and compare; default True).
      spec, fields: for `stage`, the config of the run that is made, as `config.load` takes them.

    Raises:
      ValueError: files that are damaged, of another kind, or do not fit; nothing is left then.
      CheckError: what was written computes something else.
    """
    dtype, shard_gib = options.get("dtype", ""), options.get("shard_gib", 1.0)
    tokenizer, check, adapter = options.get("tokenizer", ""), options.get("check", True), options.get("adapter", "")
    check_free(out)
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected what --format {form} names")
    log.info("hashes the source")
    identity = {
        "made_by": f"revision_jax {__version__}",
        "format": form,
        "dtype": dtype or "the source's, or float32",
        "shard_gib": shard_gib,
        "source": {"path": str(source), "sha256": fingerprint(source)},
    }
    if adapter:
        identity["adapter"] = {"path": str(adapter), "sha256": fingerprint(adapter)}
    with output_folder(out, identity | {"config": [spec, dict(fields)]}) as folder:
        if form == STAGE:
            checked = _stage(source, folder, spec, fields)
        elif adapter:
            checked = from_llama(source, folder, dtype, int(shard_gib * GIB), adapter)
        else:
            checked = CONVERTERS[form](source, folder, dtype, int(shard_gib * GIB))
        if tokenizer and not copy_tokenizer(tokenizer, folder):
            raise ValueError(f"--tokenizer {tokenizer} holds no files of a tokenizer")
        found = _compare(checked) if check else {}
        manifest = identity | {"check": {name: comparison.as_dict() for name, comparison in found.items()} or None}
        write_json(folder / MANIFEST, manifest)
    return manifest


def _stage(source: Path, folder: Path, spec: str, fields: Mapping[str, Any]) -> Callable[[], dict[str, Comparison]]:
    config = configs.load(spec, fields)
    mesh = make_mesh(devices=jax.devices()[:1])
    import_stage(config, source, folder, mesh)
    return lambda: check_import(config, source, folder, mesh)


def _compare(checked: Callable[[], Mapping[str, Comparison]]) -> Mapping[str, Comparison]:
    log.info("reads back what was written, and compares it")
    found = checked()
    for name, comparison in found.items():
        log.info("check, %s: %s", name, comparison)
    return found
