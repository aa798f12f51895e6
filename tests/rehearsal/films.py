"""Six films as MAD gives them: features in one h5 file, annotations in its json; and a video file to be asked about."""

import json
from pathlib import Path

import av
import h5py
import numpy as np

WIDTH = 768
MINUTES = {"train": (50, 45, 45), "val": (6,), "test": (8, 6)}
EVENTS = (
    "He opens the door and walks out into the rain.",
    "Someone puts the letter back into the drawer.",
    "A car pulls up in front of the old house.",
    "She looks at SOMEONE, then turns away.",
)


def write_mad(folder: Path, fps: float) -> dict[str, Path]:
    """`MAD_{train,val,test}.json` and `CLIP_L14_frames_features_5fps.h5`; returns split -> annotations.

    Args:
      fps: rows of the features a second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, found, number = np.random.default_rng(0), {}, 0
    with h5py.File(folder / "CLIP_L14_frames_features_5fps.h5", "w") as file:
        for split, minutes in MINUTES.items():
            queries = {}
            for length in minutes:
                seconds, movie = length * 60.0 + 0.4, f"{3000 + len(file)}_A_FILM"
                features = rng.normal(size=(round(seconds * fps), WIDTH)).astype(np.float16)
                file.create_dataset(movie, data=features)
                for start in rng.uniform(30, seconds - 30, 12 if split == "train" else 2):
                    times = [round(float(start), 2), round(float(start) + 4.1, 2)]
                    queries[str(number)] = {
                        "movie": movie, "sentence": EVENTS[number % len(EVENTS)], "timestamps": times,
                        "ext_timestamps": [times[0] - 2, times[1] + 2], "movie_duration": seconds,
                    }  # fmt: skip
                    number += 1
            found[split] = folder / f"MAD_{split}.json"
            found[split].write_text(json.dumps(queries))
    return found


def write_video(path: Path, minutes: float = 10.0) -> None:
    """An mp4 of 1280 x 720 at 24 frames a second: a bright bar that moves over a still picture."""
    rng = np.random.default_rng(1)
    picture = np.kron(rng.integers(0, 255, (9, 16, 3), np.uint8), np.ones((80, 80, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(round(minutes * 60 * 24)):
            shown = picture.copy()
            shown[:, (number * 2) % 1200 : (number * 2) % 1200 + 80] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
