"""Makes the shipped tiny parts again: `python -m revision_jax.pretrain --out DIR`.

Order: CLIP on captions (`shapes_clip`) and LLM on lookups (`lookup_lm`), each in a process of its own, for such small
steps keep one core busy and no more. Each gets one, so that no sum depends on how many there are. Then the projector
between them (`align`).
Nothing here sees a val or test video. Writes `clip/`, `llm/`, `projector.safetensors` and `made.json` (what was
measured on the way) under DIR; a part that is already there is kept, so that a stopped run goes on.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from revision_jax.interop.adapter import save_projector
from revision_jax.interop.llama import load_llama
from revision_jax.pretrain import align, lookup_scores, shapes_clip
from revision_jax.pretrain.parts import frame_encoder, make_clip, make_llm, make_part
from revision_jax.pretrain.tokenizer import make_tokenizer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip_steps", type=int, default=10_000, help="batches of 64 pictures")
    parser.add_argument("--llm_steps", type=int, default=40_000, help="the most steps of the LLM's curriculum")
    args = parser.parse_args(argv)
    started = time.time()
    clip_dir, llm_dir, projector = args.out / "clip", args.out / "llm", args.out / "projector.safetensors"
    args.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        clip = pool.submit(make_part, make_clip, clip_dir, args.seed, args.clip_steps, core=0)
        llm = pool.submit(make_part, make_llm, llm_dir, args.seed, args.llm_steps, core=-1)
        clip.result()
        llm.result()
    tokenizer = make_tokenizer()
    encode = frame_encoder(clip_dir)
    llm = load_llama(llm_dir)
    save_projector(align.fit_projector(encode, llm, tokenizer), projector)
    made = {
        "probes": shapes_clip.probe(encode),
        **lookup_scores.measure(llm, tokenizer),
        "seconds_since_last_start": round(time.time() - started),
        "seed": args.seed,
    }
    (args.out / "made.json").write_text(json.dumps(made, indent=2) + "\n")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
