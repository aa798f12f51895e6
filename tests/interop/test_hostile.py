"""Models' directories as strangers make them: JSON of another form, keys that nobody knows, code, headers that lie."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from revision_jax import compile, convert, evaluate, export, ground, prepare, train
from revision_jax.config import resolve_path
from revision_jax.data.video.extraction import identify
from revision_jax.interop import families
from revision_jax.interop.clip import PICTURES, read_clip_config
from revision_jax.interop.encoders import read_encoder_config
from revision_jax.interop.files import read_tensors
from revision_jax.interop.llama import read_llama_config
from revision_jax.interop.peft_config import read_kind
from revision_jax.interop.pictures import read_pictures
from revision_jax.interop.weights import Weights
from revision_jax.known_keys import allowing
from revision_jax.tokenizer_files import load_tokenizer

ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
IMAGES = lambda folder: read_pictures(folder, PICTURES, 48)
READERS = {  # which part of the shipped ones, file -> its reader
    ("llm", "config.json"): read_llama_config,
    ("llm", "tokenizer_config.json"): lambda folder: load_tokenizer(str(folder)),
    ("llm", "special_tokens_map.json"): lambda folder: load_tokenizer(str(folder)),
    ("llm", "tokenizer.json"): lambda folder: load_tokenizer(str(folder)),
    ("llm", "model.safetensors.index.json"): Weights,
    ("llm", "adapter_config.json"): lambda folder: read_kind(folder, 2),
    ("clip", "config.json"): read_clip_config,
    ("clip", "preprocessor_config.json"): IMAGES,
    ("clip", "processor_config.json"): IMAGES,
}
NAMES = ("special_tokens_map.json", "tokenizer.json", "model.safetensors.index.json")  # what their keys are
each_reader = pytest.mark.parametrize("part, name", READERS)


@pytest.fixture
def folder(tmp_path):
    """`folder(part)` -> the small files of a shipped part, in a folder of their own."""

    def copy(part: str) -> Path:
        for path in resolve_path(f"asset:tiny/{part}").glob("*.json"):
            shutil.copy(path, tmp_path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
        return tmp_path

    return copy


DEEP = b'{"a": ' * 10_000 + b"1" + b"}" * 10_000
CONTENTS = {"deep": DEEP, "latin1": b'{"model_type": "caf\xe9"}', "a list": b"[1, 2]", "cut": b'{"model_type": "l'}


@each_reader
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_object_is_one_line_with_the_files_name(folder, part, name, content):
    place = folder(part)
    (place / name).write_bytes(CONTENTS[content])
    with pytest.raises(ValueError, match=str(place)) as error:
        READERS[part, name](place)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert name in str(error.value) or name == "tokenizer.json"  # the library reads that one, and names no file


@pytest.mark.parametrize("part, name", [key for key in READERS if key[1] not in NAMES])
def test_keys_that_nobody_knows_are_refused_unless_they_are_allowed(folder, part, name, caplog):
    place, read = folder(part), READERS[part, name]
    known = json.loads((place / name).read_text()) if (place / name).is_file() else {}
    read(place)
    (place / name).write_text(json.dumps(known | {"new_trick": 1, "other": {}, "unset": None}))
    with pytest.raises(ValueError, match=rf"{name}.*(?s:.*)'new_trick', 'other'.*--allow-unknown new_trick --allow"):
        read(place)
    with allowing(["new_trick"]), pytest.raises(ValueError, match=r"\['other'\] are not known"):
        read(place)
    with allowing(["new_trick", "other", "elsewhere"]):
        read(place)
    assert "'new_trick' is passed over" in caplog.text and "--allow-unknown elsewhere had no effect" in caplog.text
    with pytest.raises(ValueError, match="new_trick"):  # what was allowed once is not kept
        read(place)


def test_keys_of_a_tower_are_known_or_refused_too(folder):
    place = folder("clip")
    raw = json.loads((place / "config.json").read_text())
    raw["vision_config"]["new_trick"] = 1
    (place / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"config\.json: vision_config: \['new_trick'\]"):
        read_clip_config(place)


_ORIGINAL = "original_max_position_embeddings"
SAME_FACTORS = {"factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 2.0, _ORIGINAL: 64}
WRONG = [
    ("llm", "config.json", {"hidden_size": "128"}, "hidden_size is '128'; expected a whole number"),
    ("llm", "config.json", {"rms_norm_eps": None}, "rms_norm_eps is 'None'; expected a number above 0"),
    ("llm", "config.json", {"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected an object"),
    ("llm", "config.json", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llm", "config.json", {"architectures": 5}, "architectures is '5'; expected text, or a list"),
    ("llm", "config.json", {"model_type": ["llama"]}, "model_type is .*; expected text, or null"),
    ("clip", "config.json", {"text_config": {"hidden_size": 3}}, "hidden_size 3 must be a multiple"),
    ("llm", "config.json", {"rope_scaling": {"type": "magic"}}, "rope_scaling type 'magic' is not supported"),
    ("llm", "config.json", {"rope_scaling": {"type": ["linear"]}}, "is not supported"),
    ("llm", "config.json", {"rope_scaling": {"type": "linear", "factor": "8"}}, "rope_scaling has {'factor': '8'}"),
    ("llm", "config.json", {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling has {'factor': 0}"),
    ("llm", "config.json", {"rope_scaling": {"type": "llama3", **SAME_FACTORS}}, "the low factor below the high one"),
    ("llm", "config.json", {"rope_scaling": {"type": "yarn", _ORIGINAL: "4"}}, ": .*str"),
    ("llm", "config.json", {"rope_parameters": {"rope_theta": [1]}}, ": .*list"),
    ("llm", "config.json", {"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}}, ": .*division by zero"),
    ("llm", "config.json", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; expected true or false"),
    ("llm", "tokenizer_config.json", {"bos_token": 5}, "bos_token is '5'; expected a text or an object"),
    ("llm", "tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder"),
    ("llm", "adapter_config.json", {"target_modules": 5}, "target_modules is '5'"),
    ("llm", "adapter_config.json", {"layers_to_transform": ["a"]}, "layers_to_transform"),
    ("llm", "adapter_config.json", {"lora_dropout": "x"}, "lora_dropout is 'x'"),
    ("llm", "adapter_config.json", {"rank_pattern": {"(q_proj": 2}}, "no regular expression"),
    ("clip", "config.json", {"vision_config": [1]}, "vision_config is"),
    ("clip", "config.json", {"vision_config": {"num_channels": 1}}, "num_channels is '1'; expected 3"),
    ("clip", "config.json", {"text_config": {"eos_token_id": [3]}}, "eos_token_id"),
    ("clip", "config.json", {"projection_dim": 1.5}, "projection_dim is '1.5'"),
    ("clip", "processor_config.json", {"image_processor": 3}, "image_processor is '3'"),
]


@pytest.mark.parametrize("part, name, change, told", WRONG, ids=lambda value: str(value)[:40])
def test_values_of_another_kind_are_told(folder, part, name, change, told):
    place = folder(part)
    known = json.loads((place / name).read_text()) if (place / name).is_file() else {}
    (place / name).write_text(json.dumps(known | change))
    with pytest.raises(ValueError, match=rf"{name}(?s:.*){told}"):
        READERS[part, name](place)


def test_an_encoder_of_no_kind_is_told(folder):
    place = folder("clip")
    (place / "config.json").write_text(json.dumps({"model_type": ["clip"]}))
    with pytest.raises(ValueError, match=r"model_type is \['clip'\]; expected an encoder"):
        read_encoder_config(place)


def test_sizes_that_are_missing_are_listed(folder):
    place = folder("llm")
    (place / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 5}))
    with pytest.raises(ValueError, match=r"lacks \['hidden_size', .*'num_attention_heads'\]"):
        read_llama_config(place)


def test_statistics_of_pictures_that_are_no_numbers(folder):
    place = folder("clip")
    save_file({"a": np.zeros(1, np.float32)}, place / "model.safetensors")
    (place / "preprocessor_config.json").write_text(json.dumps({"image_mean": None}))
    with pytest.raises(ValueError, match=r"image_mean is None; expected three numbers"):
        identify(place, 1.0)


# ------------------------------------------------------------------------------------------------- code
CODE = "open({!r}, 'w').write('ran')\nclass Tokenizer:\n    pass\nclass Config:\n    pass\n"
MAPS = {
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "tokenizer_class": "Tokenizer"},
    "config.json": {"auto_map": {"AutoConfig": "code.Config", "AutoTokenizer": "code.Tokenizer"}},
}


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_code_that_a_directory_brings_never_runs(folder, name, allowed, monkeypatch):
    """Neither when it is refused, nor when the key is allowed, nor when somebody at the terminal would say yes."""
    place = folder("llm")
    (place / "code.py").write_text(CODE.format(str(place / "witness")))
    (place / name).write_text(json.dumps(json.loads((place / name).read_text()) | MAPS[name]))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with allowing(["auto_map"] if allowed else []):
        for read in (read_llama_config, lambda place: load_tokenizer(str(place))):
            try:
                read(place)
            except ValueError as error:
                assert "auto_map" in str(error) or "tokenizer cannot be read" in str(error)
    assert not (place / "witness").exists()
    if not allowed:
        with pytest.raises(ValueError, match=r"\['auto_map'\] are not known"):
            (read_llama_config if name == "config.json" else lambda place: load_tokenizer(str(place)))(place)


# ------------------------------------------------------------------------------------------------- weights
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def tensors_file(header, data=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "longer than the file": tensors_file({"a": ENTRY}, b"\0" * 8, 10**6),
    "absurdly long": tensors_file({"a": ENTRY}, b"\0" * 8, 2**63),
    "empty": b"",
    "overlapping": tensors_file({"a": ENTRY, "b": ENTRY}, b"\0" * 8),
    "half overlapping": tensors_file({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12),
    "a hole": tensors_file({"a": ENTRY | {"data_offsets": [8, 16]}}),
    "beyond the end": tensors_file({"a": ENTRY | {"data_offsets": [0, 800], "shape": [200]}}),
    "another size than its shape": tensors_file({"a": ENTRY | {"shape": [10**18]}}, b"\0" * 8),
    "sizes whose product overflows": tensors_file({"a": ENTRY | {"shape": [2**33, 2**33]}}, b"\0" * 8),
    "backwards": tensors_file({"a": ENTRY | {"data_offsets": [8, 0]}}, b"\0" * 8),
    "deep": tensors_file(DEEP),
    "no text": tensors_file(b"\xff\xfe\x00"),
    "another dtype": tensors_file({"a": ENTRY | {"dtype": "PICKLE"}}, b"\0" * 8),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie_are_refused_with_the_files_name(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[kind])
    for read in (Weights, lambda folder: read_tensors(folder / path.name)):
        with pytest.raises(ValueError, match=rf"{path}: not a whole safetensors file") as error:
            read(tmp_path)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "weight_map, told",
    [
        (None, "weight_map is None; expected an object"),
        ([], r"weight_map is \[\]"),
        ("model.safetensors", "weight_map is model"),
        ({"a": 5}, r"names \['5'\]; expected names of files beside it"),
        ({"a": "../secret.safetensors"}, "secret.safetensors'.; expected names of files beside it"),
        ({"a": "/etc/passwd"}, "/etc/passwd"),
        ({"a": "sub/x.safetensors"}, "sub/x"),
        ({"a": "x\0.safetensors"}, "expected names of files beside it"),
        ({"a": ".."}, "expected names|missing"),
        ({"a": "x.safetensors"}, "weight files are missing"),
    ],
)
def test_an_index_names_files_beside_it(tmp_path, weight_map, told):
    (tmp_path / "models").mkdir()
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "secret.safetensors")
    index = tmp_path / "models" / "model.safetensors.index.json"
    index.write_text(json.dumps({} if weight_map is None else {"weight_map": weight_map}))
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        Weights(tmp_path / "models")


# ------------------------------------------------------------------------------------------------- the verbs
def test_the_verbs_refuse_and_allow(trained_run, tmp_path, capfd, caplog, monkeypatch):
    """On a base whose config.json has a key that nobody knows: here, one that is forgotten."""
    monkeypatch.setattr(families, "LLM_HARMLESS", set(families.LLM_HARMLESS) - {"architectures"})
    base = trained_run.config.base.llm
    verbs = {
        ground: [str(trained_run.video), "a star grows", "--workdir", str(trained_run.workdir)],
        export: ["--workdir", str(trained_run.workdir), "--out", str(tmp_path / "a"), "--format", "peft", "--no-check"],
        convert: ["--format", "llama", "--source", base, "--out", str(tmp_path / "b"), "--no-check"],
    }
    for verb, argv in verbs.items():
        assert verb.main(argv) == 2
        error = capfd.readouterr().err
        assert f"{base}/config.json: ['architectures'] are not known here" in error and error.count("\n") == 1
        if verb is not ground:  # whose search would take seconds
            assert verb.main([*argv, "--allow-unknown", "architectures"]) == 0
    assert caplog.text.count("'architectures' is passed over") == 2


@pytest.mark.parametrize("verb", [train, convert, export, ground, evaluate, compile, prepare])
def test_every_verb_that_reads_such_files_has_the_flag(verb):
    parsers = [verb.make_parser()]
    for action in parsers[0]._actions:  # those of the subcommands of `prepare`
        if isinstance(action.choices, dict):
            parsers = [parser for name, parser in action.choices.items() if name not in ("merge", "report")]
    assert all("--allow-unknown KEY" in parser.format_help() for parser in parsers)
