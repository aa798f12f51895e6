"""Uses what the diffs of CONTRIBUTING.md add, in a copy of the package: run by test_contributing.py, prints JSON.

python added.py FOLDER                        # the family of LLMs and the encoder, of the files there
python added.py FOLDER WORKDIR CHAIN VIDEO    # the others
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from tiny_base import chain_config

from revision_jax import ground, prepare
from revision_jax.interop import encoder
from revision_jax.interop.encoders import encoder_kind
from revision_jax.interop.llama import load_llama
from revision_jax.runs.run import Run
from revision_jax.runs.splits import prepare_data
from revision_jax.runs.training import make_task


def told(verb, *arguments) -> tuple[int, str, str]:
    """Exit code, and what a verb prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = verb.main([*map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def data_set(folder: Path, clip: Path) -> list:
    (folder / "minutes.txt").write_text("one|1.0|3.0|the budget\none|5.0|8.0|questions\n\none|nothing else\n")
    (folder / "features").mkdir()
    np.save(folder / "features/one.npy", np.ones((20, 16), np.float16))
    given = ["--annotations", folder / "minutes.txt", "--features", folder / "features", "--fps", "1"]
    made = told(prepare, "minutes", *given, "--encoder", clip, "--out", folder / "data", "--split", "test")
    queries = (folder / "data/test/queries.jsonl").read_text().strip().split("\n")
    return [*made, [json.loads(row)["sentence"] for row in queries]]


def policy(workdir: Path, video: Path) -> dict:
    """Policy -> the dense windows that were asked; what is said at a depth that it does not have."""
    asked = {}
    for name in ("top_down", "least_likely"):
        given = [video, "a red circle", "--workdir", workdir, "--keep", "0.5,0.2", "--policy", name]
        code, out, err = told(ground, *given, "--json")
        assert code == 0, err
        asked[name] = json.loads(out)["videos"][0]["queries"][0]["levels"][-1]["windows"]
    return asked | {"refused": told(ground, *given, "--depth", "1")}


def strategy(folder: Path, chain: Path) -> dict:
    """Strategy -> where its contrastive windows lie."""
    drawn = {}
    for name in ("random", "earliest"):
        config = chain_config("configs/stage1.py", chain, data__negatives=((name, 1.0),))
        task = make_task(Run(config, folder / name), prepare_data(config))
        records = [int(record) for batch, _ in zip(iter(task.batches), range(8)) for record in batch["record_id"]]
        said = [line for line in map(task.describe_record, records) if "Not Present" in line]
        drawn[name] = sorted({line.partition(" in video ")[2] for line in said})
    return drawn


def models(folder: Path) -> dict:
    """What the two models compute of fixed inputs, in `found.npz`; the encoder is written to `again/`."""
    given = np.load(folder / "given.npz")
    llm, kind = load_llama(folder / "seed_oss"), encoder_kind(folder / "metaclip")
    clip = encoder.load(kind, folder / "metaclip")
    encoder.save(kind, clip, folder / "again")
    final, _ = llm.prefill(llm.embed(given["tokens"]))
    texts = [*clip.encode_text(given["texts"])]
    found = {"logits": llm.logits(final), "images": clip.encode_image(given["pixels"]), "texts": texts[1]}
    np.savez(folder / "found.npz", **found)
    return {"kind": kind.name, "biases": llm.config.biases}


if __name__ == "__main__":
    folder, *others = map(Path, sys.argv[1:])
    if others:
        workdir, chain, video = others
        found = {"data set": data_set(folder, chain / "base/clip"), "policy": policy(workdir, video)}
        found["strategy"] = strategy(folder, chain)
    else:
        found = models(folder)
    print(json.dumps(found))
