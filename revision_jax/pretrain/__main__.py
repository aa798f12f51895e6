"""Makes the shipped tiny parts again: `python -m revision_jax.pretrain --out DIR`.

Order: tokenizer, CLIP on captions (`shapes_clip`), LLM on lookups (`lookup_lm`), projector between them (`align`).
Nothing here sees a val or test video. Writes `clip/`, `llm/`, `projector.safetensors` and `made.json` (what was
measured on the way) under DIR; a part that is already there is kept, so that a stopped run goes on.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from revision_jax.interop.adapter import save_projector
from revision_jax.interop.clip import load_clip, save_clip
from revision_jax.interop.llama import load_llama, save_llama
from revision_jax.pretrain import align, lookup_lm, lookup_scores, shapes_clip
from revision_jax.pretrain.tokenizer import make_tokenizer

PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": shapes_clip.IMAGE_SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": shapes_clip.IMAGE_SIZE, "width": shapes_clip.IMAGE_SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(shapes_clip.MEAN),
    "image_std": list(shapes_clip.STD),
    "do_convert_rgb": True,
}


def make_clip(directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int, steps: int) -> None:
    """Trains the CLIP and writes it as a Hugging Face directory."""
    checkpoint = directory.with_suffix(".partial")
    save_clip(shapes_clip.train(tokenizer, seed=seed, steps=steps, checkpoint=checkpoint), directory)
    tokenizer.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    checkpoint.unlink(missing_ok=True)


def make_llm(directory: Path, tokenizer: PreTrainedTokenizerBase, seed: int, steps: int) -> None:
    """Trains the LLM and writes it as a Hugging Face directory."""
    checkpoint = directory.with_suffix(".partial")
    model = lookup_lm.train(tokenizer, seed=seed, steps=steps, checkpoint=checkpoint)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    save_llama(model, directory, **ids, pad_token_id=tokenizer.pad_token_id)
    tokenizer.save_pretrained(directory)
    checkpoint.unlink(missing_ok=True)


def frame_encoder(directory: Path, batch: int = 250) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures `[n, SIZE, SIZE, 3]` uint8 -> features `[n, D]`, by the CLIP of a directory."""
    clip = load_clip(directory)
    encode = jax.jit(lambda pictures: clip.encode_image(shapes_clip.preprocess(pictures)))
    return lambda pictures: np.concatenate([encode(pictures[i : i + batch]) for i in range(0, len(pictures), batch)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip_steps", type=int, default=12_000, help="batches of 64 pictures")
    parser.add_argument("--llm_steps", type=int, default=40_000, help="the most steps of the LLM's curriculum")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    started = time.time()
    tokenizer = make_tokenizer()
    clip_dir, llm_dir, projector = args.out / "clip", args.out / "llm", args.out / "projector.safetensors"
    args.out.mkdir(parents=True, exist_ok=True)
    if not (clip_dir / "preprocessor_config.json").exists():
        make_clip(clip_dir, tokenizer, args.seed, args.clip_steps)
    if not (llm_dir / "tokenizer.json").exists():
        make_llm(llm_dir, tokenizer, args.seed, args.llm_steps)
    encode = frame_encoder(clip_dir)
    llm = load_llama(llm_dir)
    save_projector(align.fit_projector(encode, llm, tokenizer), projector)
    made = {
        "probes": shapes_clip.probe(encode),
        **lookup_scores.measure(llm, tokenizer),
        "seconds": round(time.time() - started),
        "seed": args.seed,
    }
    (args.out / "made.json").write_text(json.dumps(made, indent=2) + "\n")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
