"""Captions of single frames, for the align stage: rendered Shapes frames, or LLaVA's LCS-558K image captions.

Letters: B batch, N images, D feature width, T text tokens.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.builders.shapes_world import make_video
from revision_jax.data.store.features import MANIFEST, FeatureStore
from revision_jax.data.video import frames as video
from revision_jax.data.video.extraction import Extractor
from revision_jax.data.video.scaling import Square
from revision_jax.prompts import PromptEncoder
from revision_jax.text import parse_json, read_text

LCS_CAPTIONS = "blip_laion_cc_sbu_558k.json"
LCS_IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Captions:
    """Images with their captions.

    texts: `N` captions.
    read: number of an image -> its feature `[D]`.
    name: number of an image -> its name in messages.
    files: those whose content decides the captions and features.
    """

    texts: Sequence[str]
    read: Callable[[int], np.ndarray]
    name: Callable[[int], str]
    files: Sequence[pathlib.Path]


def shapes_captions(directory: pathlib.Path, split: str) -> Captions:
    """Every stored frame of a Shapes split, described by what is on screen."""
    store = FeatureStore(directory)
    source, fps = store.manifest.source, store.manifest.fps
    frames, texts = [], []
    for index in range(source["videos"]):
        shown = make_video(split, index, duration_s=source["duration_s"], domain=source["domain"])
        count = store.manifest.videos[shown.video_id].num_frames
        frames += [(shown.video_id, row) for row in range(count)]
        texts += shown.captions(np.arange(count) / fps)
    read = lambda number: store.read(frames[number][0], np.array(frames[number][1]))
    name = lambda number: f"frame {frames[number][1]} of {frames[number][0]}"
    return Captions(texts, read, name, [directory / MANIFEST])


def lcs_captions(directory: pathlib.Path, extractor: Extractor) -> Captions:
    """LCS-558K: `blip_laion_cc_sbu_558k.json` and `images/`, whose features are kept in a file after the first call."""
    path = directory / LCS_CAPTIONS
    rows = parse_json(read_text(path))
    answers = [next(turn["value"] for turn in row["conversations"] if turn["from"] == "gpt") for row in rows]
    kept = directory / f"features-{extractor.fingerprint[:8]}.npy"
    if not kept.is_file():
        pictures = (directory / LCS_IMAGES / row["image"] for row in rows)
        features = extractor.encode_frames(_decoded(pictures, extractor.square), name=str(path))
        with kept.with_suffix(".tmp").open("wb") as file:
            np.save(file, features)
        os.replace(kept.with_suffix(".tmp"), kept)
    features = np.load(kept, mmap_mode="r", allow_pickle=False)
    if len(features) != len(rows):
        raise ValueError(f"{kept} holds {len(features)} images, {path} {len(rows)}; delete the former to encode again")
    texts = [" ".join(answer.split()) for answer in answers]
    return Captions(texts, lambda number: np.array(features[number]), lambda number: rows[number]["image"], [path])


def _decoded(paths: Iterator[pathlib.Path], square: Square) -> Iterator[np.ndarray]:
    for path in paths:
        yield video.read_image(path, square)[None]


class CaptionDrawer:
    """One row a caption; nothing about it is random."""

    skipped = {}

    def __init__(self, captions: Captions):
        self.captions = captions

    def __len__(self) -> int:
        return len(self.captions.texts)

    def draw(self, row: int, rng: np.random.Generator) -> int:
        return row


@dataclasses.dataclass(frozen=True)
class LoadCaption:
    """(record id, number of an image) -> `video [1, D]`, `tokens [T]`, `loss_mask [T]`, `record_id []`."""

    captions: Captions
    prompts: PromptEncoder

    def __call__(self, item: tuple[int, int], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, number = item
        text = self.captions.texts[number]
        feature = self.captions.read(number)[None]
        if video is not None:
            video[:] = feature
        return {
            "video": feature if video is None else video,
            **self.prompts.encode_example(text, text, "caption"),
            "record_id": np.int32(record_id),
        }

    def describe(self, number: int) -> str:
        """`frame 30 of ...: a red circle at the top left`"""
        return f"{self.captions.name(number)}: {self.captions.texts[number]}"


def caption_stream(captions: Captions, prompts: PromptEncoder, batching: Batching) -> Stream:
    """Batches of single frames with their captions: `video [B, 1, D]`, `tokens` and `loss_mask [B, T]`.

    Raises ValueError if there are fewer captions than a batch, or one is too long for the prompt.
    """
    if len(captions.texts) < batching.batch_size:
        raise ValueError(
            f"there are {len(captions.texts)} captions; expected at least a batch of {batching.batch_size}"
        )
    longest = max(captions.texts, key=len)
    prompts.encode_example(longest, longest, "caption")
    return make_stream(Rows(CaptionDrawer(captions), LoadCaption(captions, prompts)), batching)
