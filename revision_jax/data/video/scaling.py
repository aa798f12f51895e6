"""One filter for every picture that any part of this program sees, as its encoder wants it."""

from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

_FILTERS = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}


class Square(NamedTuple):
    """How a picture becomes a square of `size` pixels: the centre of it, or with `crop` false all of it, squeezed."""

    size: int
    crop: bool = True
    filter: str = "bicubic"


class Scaler:
    """Pictures of any size -> uint8 RGB [size, size, 3].

    Args:
      square: a number is its size: the short side is scaled to it, and the centre cut out (bicubic), as CLIP does.
    """

    def __init__(self, square: Square | int):
        self.square = square if isinstance(square, Square) else Square(square)
        self.size = self.square.size
        # Kept for all frames: a new one for each costs five times the scaling itself.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, aspect: float = 1.0) -> np.ndarray:
        """One frame -> [size, size, 3]; `aspect` is the width of a pixel over its height."""
        width, height = frame.width * aspect, frame.height
        scale = self.size / min(width, height)
        width, height = max(self.size, int(width * scale + 1e-6)), max(self.size, int(height * scale + 1e-6))
        if not self.square.crop:
            width = height = self.size
        interpolation = _FILTERS[self.square.filter]
        frame = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return frame.to_ndarray()[top : top + self.size, left : left + self.size]

    def array(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, 3] -> [n, size, size, 3]."""
        if frames.shape[1:3] == (self.size, self.size):
            return frames
        pictures = [self(av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format="rgb24")) for f in frames]
        return np.stack(pictures) if pictures else np.empty((0, self.size, self.size, 3), np.uint8)
