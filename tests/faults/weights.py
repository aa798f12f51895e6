"""Weights and adapters of strangers, by class: each with the right values, or the error."""

import json
import math
import os
import shutil

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

from revision_jax.interop.peft_config import linear_names
from tests.faults.cases import Case, Kind
from tests.faults.reading import _sha, model
from tests.interop.test_hostile import CODE, DEEP, HEADERS, MAPS, WRONG
from tests.runs.tiny_base import make_base

NO_FILE = "not a whole safetensors file"


def some_tensors(rng, count=4):
    kinds = (np.float32, np.float16, ml_dtypes.bfloat16)
    return {
        f"layer.{n}.weight": rng.normal(size=tuple(rng.integers(1, 9, 2))).astype(kinds[n % 3]) for n in range(count)
    }


def shas(tensors):
    return {name: _sha(array) for name, array in tensors.items()}


def place(folder, number):
    own = folder / str(number)
    own.mkdir()
    return own


def whole(folder, rng):
    for number in range(4):
        own, tensors = place(folder, number), some_tensors(rng)
        save_file(tensors, own / "model.safetensors")
        yield Case(own, shas(tensors))
    for number in range(4, 8):  # in shards, with an index
        own, tensors = place(folder, number), some_tensors(rng, 5)
        names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(tensors)}
        for file in set(names.values()):
            save_file({key: tensors[key] for key in tensors if names[key] == file}, own / file)
        (own / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        yield Case(own, shas(tensors))
    for number in range(8, 11):
        own = place(folder, number)
        tensors = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5.0, dtype=np.float32)}
        torch.save({key: torch.tensor(value) for key, value in tensors.items()}, own / "pytorch_model.bin")
        yield Case(own, shas(tensors))


def headers(folder, rng):
    for number, raw in enumerate(HEADERS.values()):
        own = place(folder, number)
        (own / "model.safetensors").write_bytes(raw)
        yield Case(own, None, NO_FILE)
    for number in range(20, 26):
        own = place(folder, number)
        save_file(some_tensors(rng), own / "model.safetensors")
        path = own / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * rng.uniform(0, 0.99))])
        yield Case(own, None, NO_FILE)


def indexes(folder, rng):
    save_file({"a": np.zeros(1, np.float32)}, folder / "secret.safetensors")
    maps = [
        {"a": "../secret.safetensors"},
        {"a": "/etc/passwd"},
        {"a": str(folder / "secret.safetensors")},
        {"a": ".."},
    ]
    for number, weight_map in enumerate(
        [*maps, {"a": "x\0.safetensors"}, None, [], {"a": 5}, {"a": "gone.safetensors"}]
    ):
        own = place(folder, number)
        (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        yield Case(own, None, "weight_map|beside it|missing")


class Stranger:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.open, (self.witness, os.O_CREAT | os.O_WRONLY)


def pickles(folder, rng):
    for number, wrap in enumerate((lambda x: x, lambda x: {"a": x}, lambda x: {"a": torch.ones(2), "b": [x]})):
        own = place(folder, number)
        torch.save(wrap(Stranger(str(own / "witness"))), own / "pytorch_model.bin")
        yield Case(own, None, "[Ww]eights.only|code|not")


def base(folder):
    """A tiny language model."""
    return make_base(folder / "base") / "llm"


def bits(folder, rng):
    """Flipped bits of the header, in the file of a whole model: told, or nothing changes."""
    source = base(folder)
    right = model(source)
    for number in range(16):
        own = folder / str(number)
        shutil.copytree(source, own)
        raw = bytearray((own / "model.safetensors").read_bytes())
        at = int(rng.integers(0, 8 + int.from_bytes(raw[:8], "little")))
        raw[at] ^= 1 << int(rng.integers(8))
        (own / "model.safetensors").write_bytes(raw)
        yield Case(own, right, ".")


def configs(folder, rng):
    source = base(folder)
    raw = json.loads((source / "config.json").read_text())
    own = place(folder, "good")
    shutil.copy(source / "config.json", own)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    yield Case(own, [raw[key] for key in sizes])
    wrong = [change for part, name, change, _ in WRONG if (part, name) == ("llm", "config.json")]
    wrong += [
        {"num_hidden_layers": 10**9},
        {"vocab_size": 2**30},
        {"new_trick": 1},
        {"model_type": "gpt9"},
        MAPS["config.json"],
    ]
    wrong += [{"hidden_size": -1}, {"num_attention_heads": 1.5}, {"rope_scaling": {"type": "magic"}}]
    factors = (None, "8", [1], 0, -1, float("inf"))
    wrong += [{"rope_scaling": {"type": "linear", "factor": factor}} for factor in factors]
    wrong += [{"rope_parameters": {"rope_theta": [1]}}, {"rope_scaling": {"type": ["linear"]}}]
    contents = [json.dumps(raw | change).encode() for change in wrong]
    for number, content in enumerate([*contents, DEEP, b"[1, 2]", b"", b'{"a": "caf\xe9"}', b'{"model_type": "l']):
        own = place(folder, number)
        (own / "config.json").write_bytes(content)
        (own / "code.py").write_text(CODE.format(str(own / "witness")))
        yield Case(own, None, "config.json")


def adapter(rng, raw, shapes):
    """Tensors of PEFT's keys, and layer -> a few values of what is added."""
    tensors, added = {}, {}
    for layer in range(2):
        for name in linear_names(layer):
            short = name.rpartition(".")[2]
            rank = raw["adapted"](layer, short)
            if rank:
                out, into = shapes[short]
                a, b = rng.normal(size=(rank, into)), rng.normal(size=(out, rank))
                a, b = a.astype(np.float32), b.astype(np.float32)
                tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
                scale = raw["lora_alpha"] / (math.sqrt(rank) if raw.get("use_rslora") else rank)
                delta = scale * (np.float64(b) @ np.float64(a)).T
                added[f"{layer}.{short}"] = [*map(float, delta.ravel()[:4]), float(delta.sum())]
    return tensors, added


def adapters(folder, rng):
    source = base(folder)
    shapes = {"q_proj": (16, 16), "v_proj": (16, 16), "o_proj": (16, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
    of = lambda names, rank=3, layers=(0, 1): lambda layer, name: rank * (name in names.split() and layer in layers)
    five = lambda layer, name: {"q_proj": 3, "v_proj": 5}.get(name, 0)
    kinds = [  # what the file says; layer and name -> rank
        ({"target_modules": ["q_proj", "v_proj"]}, of("q_proj v_proj")),
        ({"target_modules": ["q_proj"], "use_rslora": True}, of("q_proj")),
        ({"target_modules": r".*\.(up|down)_proj"}, of("up_proj down_proj")),
        ({"target_modules": ["model.layers.1.self_attn.o_proj"]}, of("o_proj", layers=(1,))),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0]}, of("q_proj", layers=(0,))),
        ({"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 5}}, five),
        ({"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["up_proj"]}, of("q_proj")),
    ]
    for number in range(14):
        own = place(folder, number)
        changes, adapted = kinds[number % len(kinds)]
        raw = {"peft_type": "LORA", "r": 3, "lora_alpha": int(rng.integers(1, 40)), **changes}
        tensors, added = adapter(rng, raw | {"adapted": adapted}, shapes)
        (own / "adapter_config.json").write_text(json.dumps(raw))
        save_file(tensors, own / "adapter_model.safetensors")
        yield Case(own, added, "", {"base": str(source)})


REFUSED = [
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "corda"},
    {"init_lora_weights": "pissa_niter_4"},
    {"alora_invocation_tokens": [1, 2]},
    {"bias": "all"},
    {"use_dora": True},
    {"modules_to_save": ["lm_head"]},
    {"peft_type": "IA3"},
    {"new_trick": 1},
    {"r": 0},
    {"r": "8"},
    {"lora_alpha": None},
    {"target_modules": ["lm_head"]},
    {"target_modules": "(q_proj"},
    {"rank_pattern": [1]},
    {"fan_in_fan_out": True},
    {"layers_to_transform": ["a"]},
]


def refused(folder, rng):
    source = base(folder)
    for number, change in enumerate(REFUSED):
        own = place(folder, number)
        raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | change
        (own / "adapter_config.json").write_text(json.dumps(raw))
        save_file({"a": np.zeros(1, np.float32)}, own / "adapter_model.safetensors")
        yield Case(own, None, next(iter(change)) + "|pattern", {"base": str(source)})


READERS = {
    "tensors": [
        Kind("whole files, shards, archives", 11, whole), Kind("headers that lie, cut files", 19, headers),
        Kind("indexes that name other files", 9, indexes), Kind("archives with code", 3, pickles),
    ],
    "model": [Kind("flipped bits of a header", 16, bits)],
    "config": [Kind("sizes, keys and code of a config", 34, configs)],
    "lora": [Kind("adapters that PEFT reads", 14, adapters), Kind("adapters of kinds that are refused", 18, refused)],
}  # fmt: skip
