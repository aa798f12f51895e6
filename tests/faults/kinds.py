"""JSON of strangers in which one value is of another kind: told by the file's name, or it changes nothing."""

import copy
import json
import math
import shutil

from revision_jax import config as configs
from revision_jax.config import resolve_path
from tests.faults.cases import Case, Kind
from tests.interop.test_hostile import ADAPTER

ODD = [
    None,
    "x",
    "",
    [],
    {},
    [[1]],
    {"a": 1},
    "1",
    10**30,
    math.nan,
    math.inf,
    [None],
    "a\0b",
    "\ud800",
    {"a": {"b": []}},
]
IMAGES = {
    "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 48}, "do_resize": True, "resample": 3,
    "crop_size": {"height": 48, "width": 48}, "do_normalize": True, "rescale_factor": 1 / 255,
}  # fmt: skip
SHIPPED = {"llm": "config.json", "tokenizer": "tokenizer_config.json", "encoder": "config.json"}
OWN = {
    "pictures": ("preprocessor_config.json", IMAGES),
    "kind": ("adapter_config.json", ADAPTER | {"rank_pattern": {"q": 2}, "layers_to_transform": [0], "bias": "none"}),
    "manifest": ("manifest.json", {
        "format": 1, "encoder": "e", "encoder_sha256": "0" * 64, "fps": 2.0, "width": 8, "dtype": "float16",
        "chunk_frames": 64, "shards": [{"path": "x", "records": 1, "bytes": 1}], "source": {}, "queries_sha256": "",
        "videos": {"v": {"num_frames": 10, "duration_s": 5.0, "first_record": 0, "sha256": "0"}},
    }),
}  # fmt: skip


def places(value, place=()):
    """Every place in a JSON value, as keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def changed(value, rng):
    """A value with another kind of value somewhere within."""
    value = copy.deepcopy(value)
    found = [*places(value)]
    *above, last = found[rng.integers(len(found))]
    inner = value
    for key in above:
        inner = inner[key]
    inner[last] = ODD[rng.integers(len(ODD))]
    return value


def of_models(folder, rng):
    """Of models, tokenizers, adapters, and a manifest of ours."""
    for number in range(12):
        for reader in (*SHIPPED, *OWN):
            own = folder / f"{reader}{number}"
            own.mkdir()
            if reader in SHIPPED:
                part = resolve_path(f"asset:tiny/{'clip' if reader == 'encoder' else 'llm'}")
                for path in part.glob("*.json"):
                    shutil.copy(path, own)
                name, value = SHIPPED[reader], json.loads((own / SHIPPED[reader]).read_text())
            else:
                name, value = OWN[reader]
            (own / name).write_text(json.dumps(changed(value, rng)))
            yield Case(own, "read", ".", {"what": reader})


def of_runs(folder, rng):
    """The config.json of a run."""
    raw = json.loads(json.dumps(configs.load().to_dict()))
    for number in range(24):
        own = folder / str(number)
        own.mkdir()
        (own / "config.json").write_text(json.dumps(changed(raw, rng)))
        yield Case(own, "read", ".", {"what": "run"})


KINDS = [Kind("values of another kind: models", 72, of_models), Kind("values of another kind: runs", 24, of_runs)]
