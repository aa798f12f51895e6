"""The two parts that are trained, as Hugging Face directories. A part that is there is kept."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from revision_jax.interop.clip import load_clip, save_clip
from revision_jax.interop.llama import save_llama
from revision_jax.parallel.memory import keep_freed_memory
from revision_jax.pretrain import clip_words, lookup_lm, shapes_clip
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


def make_clip(directory: Path, seed: int, steps: int) -> None:
    """Trains the CLIP on pictures, then on words for 3 % as many steps, and writes it as a Hugging Face directory."""
    if (directory / "preprocessor_config.json").exists():
        return
    tokenizer, checkpoint = make_tokenizer(), directory.with_suffix(".partial")
    clip = shapes_clip.train(tokenizer, seed=seed, steps=steps, checkpoint=checkpoint)
    save_clip(clip_words.learn_words(clip, tokenizer, seed=seed, steps=max(1, 3 * steps // 100)), directory)
    tokenizer.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    checkpoint.unlink(missing_ok=True)


def make_llm(directory: Path, seed: int, steps: int) -> None:
    """Trains the LLM and writes it as a Hugging Face directory."""
    if (directory / "tokenizer.json").exists():
        return
    tokenizer, checkpoint = make_tokenizer(), directory.with_suffix(".partial")
    model = lookup_lm.train(tokenizer, seed=seed, steps=steps, checkpoint=checkpoint)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    save_llama(model, directory, **ids, pad_token_id=tokenizer.pad_token_id)
    tokenizer.save_pretrained(directory)
    checkpoint.unlink(missing_ok=True)


def make_part(
    make: Callable[[Path, int, int], None], directory: Path, seed: int, steps: int, *, core: int | None = None
) -> None:
    """What a process of its own does for one part; its lines begin with the part's name.

    Args:
      core: place among the cores that this process may use; it keeps to that one. None: to all of them.
    """
    keep_freed_memory()
    if core is not None and hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    logging.basicConfig(format=f"{directory.name} %(message)s", level=logging.INFO)
    make(directory, seed, steps)


def frame_encoder(directory: Path, batch: int = 250) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures `[n, SIZE, SIZE, 3]` uint8 -> features `[n, D]`, by the CLIP of a directory."""
    clip = load_clip(directory)
    encode = jax.jit(lambda pictures: clip.encode_image(shapes_clip.preprocess(pictures)))
    return lambda pictures: np.concatenate([encode(pictures[i : i + batch]) for i in range(0, len(pictures), batch)])
