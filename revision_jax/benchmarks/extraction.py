"""Speed of a video file to features: our extractor beside PyAV, frame by frame, and PyTorch's CLIPModel.

    python -m revision_jax.benchmarks.extraction --repeat 5                     # the shipped small CLIP
    python -m revision_jax.benchmarks.extraction --encoder random-b32 --fps 1   # random weights of ViT-B/32's sizes

Moving shapes, H.264 at 25 frames a second, sampled at `--fps`. The peer is what people write: every frame
decoded (FFmpeg's threads on), each sampled one made a picture, transformers' CLIPImageProcessor and `CLIPModel` with
the same weights, 32 at a time. Before the clock its features and ours are compared: each frame's cosine must reach
0.99 and the median 0.999. They are not equal, for FFmpeg and Pillow scale differently. One JSON line.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from revision_jax.benchmarks.machine import machine
from revision_jax.benchmarks.second_question import Form, encode_seconds
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns
from revision_jax.config import resolve_path
from revision_jax.data.video.extraction import Extractor

SHIPPED, RANDOM = "shipped", "random-b32"
FILM_FPS, BATCH = 25, 32  # of the film; frames that the peer encodes together
LEAST_COSINE, LEAST_MEDIAN = 0.99, 0.999
SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def make_random_clip(folder: Path) -> Path:
    """A Hugging Face directory: random weights, a vision tower of ViT-B/32's sizes, the shipped text tower's."""
    import torch
    import transformers

    shipped = resolve_path("asset:tiny/clip")
    config = json.loads((shipped / "config.json").read_text())
    config["projection_dim"] = 512
    config["vision_config"] |= SIZES | {"image_size": 224, "patch_size": 32, "projection_dim": 512}
    config["text_config"]["projection_dim"] = 512
    torch.manual_seed(0)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    transformers.CLIPModel(transformers.CLIPConfig(**config)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    pictures |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def torch_extractor(directory: Path, fps: int) -> Callable[[Path], np.ndarray]:
    """The peer: a film at `FILM_FPS` -> features `[N, D]` float32."""
    import torch
    import transformers

    model = transformers.CLIPModel.from_pretrained(directory).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(directory)

    def encode(pictures: list) -> np.ndarray:
        found = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
        return (found if isinstance(found, torch.Tensor) else found.pooler_output).numpy()

    @torch.inference_mode()
    def extract(path: Path) -> np.ndarray:
        features, pictures = [], []
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % (FILM_FPS // fps):
                    continue
                pictures.append(frame.to_image())
                if len(pictures) == BATCH:
                    features.append(encode(pictures))
                    pictures = []
        if pictures:
            features.append(encode(pictures))
        return np.concatenate(features)

    return extract


def check_features(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The least and the median cosine of two `[N, D]`.

    Raises:
      ValueError: other frames, or features too far apart.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"the extractors give {ours.shape} and {theirs.shape}; expected as many frames and widths")
    ours, theirs = (x.astype(np.float64) for x in (ours, theirs))
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    least, median = float(cosines.min()), float(np.median(cosines))
    if least < LEAST_COSINE or median < LEAST_MEDIAN:
        told = f"features agree to a cosine of {least:.4f} at least, {median:.4f} in the median"
        raise ValueError(f"{told}; expected {LEAST_COSINE} and {LEAST_MEDIAN}: they do not do the same work")
    return {"least": round(least, 5), "median": round(median, 5)}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both extractors on one film; see `main` for the arguments."""
    form = Form(args.width, args.height, FILM_FPS)
    encode_seconds(film := folder / "film.mp4", form, args.seconds)
    random = args.encoder == RANDOM
    directory = make_random_clip(folder / "clip") if random else resolve_path("asset:tiny/clip")
    ours, theirs = Extractor(directory, args.fps), torch_extractor(directory, args.fps)
    features = ours.encode_video(film).features
    cosines = check_features(features, theirs(film))
    programs = {
        "ours": Program(lambda: ours.encode_video(film), len(features)),
        "PyAV + PyTorch": Program(lambda: theirs(film), len(features)),
    }
    encoder = "random weights of ViT-B/32's sizes" if random else "the shipped CLIP"
    work = f"video to features, {encoder}, {form.width} x {form.height} H.264, {args.fps} of {FILM_FPS} frames a second"
    seconds = take_turns(programs, args.repeat, rest_s=args.rest)
    return {
        "benchmark": "extraction",
        "film": form._asdict() | {"seconds": args.seconds, "bytes": film.stat().st_size},
        "encoder": encoder,
        "frames": len(features),
        "cosines": cosines,
        **machine(),
        "beside": compare(Claim(work, "ms a sampled frame", "ours"), seconds),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", choices=(SHIPPED, RANDOM), default=SHIPPED, help="the CLIP (default: %(default)s)")
    add("--width", type=int, default=320, help="of the film's pictures, even (default: %(default)s)")
    add("--height", type=int, default=240, help="of the film's pictures, even (default: %(default)s)")
    add("--seconds", type=int, default=60, help="of the film (default: %(default)s)")
    rates = [rate for rate in range(1, FILM_FPS + 1) if FILM_FPS % rate == 0]
    add("--fps", type=int, choices=rates, default=5, help="frames a second to encode (default: %(default)s)")
    add("--repeat", type=int, default=5, help="rounds in which the two take turns (default: %(default)s)")
    add("--rest", type=float, default=0.2, help="seconds of rest before each turn (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder))))


if __name__ == "__main__":
    main()
