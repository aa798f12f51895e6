"""Films of many forms whose pictures tell their own number: containers, codecs, pixel formats, rates, sizes, rotations.

Picture n shows n in two halves, left n // 16 and right n % 16, as steps of grey that lossy codecs keep apart.
"""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from revision_jax.benchmarks.machine import same_priority

LENGTH_S = 10.0
STEP, DARK = 14, 18


@dataclasses.dataclass(frozen=True)
class Form:
    """How a film is written. rate None: pictures stand for 0.04 to 0.9 s; turned: degrees that a player turns it by."""

    ending: str
    codec: str
    pixels: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    rate: Fraction | None = Fraction(10)
    turned: int = 0
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        rate = "varies" if self.rate is None else f"{float(self.rate):.4g}"
        turned = f"-{self.turned}" if self.turned else ""
        return f"{self.codec}-{self.pixels}-{self.size[0]}x{self.size[1]}-{rate}{turned}{self.ending}"

    @property
    def starts_s(self) -> np.ndarray:
        """When each picture is shown from."""
        if self.rate is not None:
            return np.arange(round(LENGTH_S * self.rate)) / float(self.rate)
        steps = np.random.default_rng(0).choice([0.04, 0.08, 0.2, 0.9], 200)
        starts = np.concatenate([[0.0], np.cumsum(steps)]).round(3)
        return starts[starts < LENGTH_S]


NTSC = Fraction(24000, 1001)
REORDERED = (("bf", "3"), ("b-pyramid", "normal"), ("g", "24"), ("preset", "medium"))
FORMS = (
    Form(".mp4", "libx264", options=REORDERED),
    Form(".mp4", "libx264", rate=None),
    Form(".mp4", "libx264", turned=90),
    Form(".mov", "libx264", "yuv444p", (61, 45), NTSC),
    Form(".mov", "prores_ks", "yuv422p10le", (80, 64)),
    Form(".m4v", "mpeg4", turned=180),
    Form(".3gp", "h263", size=(176, 144), rate=Fraction(30000, 2002)),
    Form(".mkv", "libx264", options=REORDERED),
    Form(".mkv", "libx265", "yuv420p10le", rate=Fraction(8), options=(("x265-params", "log-level=none"),)),
    Form(".mkv", "ffv1", "gray", (63, 47), Fraction(5)),
    Form(".mkv", "ffv1", "bgr0", (41, 73), rate=None),
    Form(".mov", "png", "rgba", (50, 34), Fraction(4)),
    Form(".webm", "libvpx", rate=Fraction(12)),
    Form(".webm", "libvpx-vp9", "yuv444p", rate=None, options=(("cpu-used", "8"),)),
    Form(".webm", "libsvtav1", size=(96, 64), options=(("preset", "12"), ("svtav1-params", "lp=1"))),
    Form(".avi", "mpeg4", options=(("bf", "0"),)),
    Form(".avi", "mjpeg", "yuvj422p", (62, 46)),
    Form(".ts", "mpeg2video", "yuv422p", rate=Fraction(25)),
    Form(".mpg", "mpeg1video", size=(66, 50), rate=Fraction(24)),
    Form(".vob", "mpeg2video", rate=Fraction(25)),
    Form(".flv", "flv", rate=Fraction(15)),
    Form(".wmv", "wmv2", rate=Fraction(15)),
    Form(".nut", "rawvideo", "rgb24", (57, 43), NTSC),
    Form(".gif", "gif", "rgb8", rate=Fraction(10)),
)


def picture(number: int, width: int, height: int) -> np.ndarray:
    """RGB `[height, width, 3]`."""
    shown = np.empty((height, width, 3), np.uint8)
    shown[:, : width // 2], shown[:, width // 2 :] = (DARK + STEP * digit for digit in divmod(number, 16))
    return shown


def read_number(shown: np.ndarray) -> int:
    """The number that a picture tells, whatever its size."""
    width = shown.shape[1]
    halves = shown[:, width // 8 : 3 * width // 8], shown[:, -3 * width // 8 : -width // 8]
    left, right = (round((half.mean() - DARK) / STEP) for half in halves)
    return 16 * left + right


def write(form: Form, folder: Path) -> Path:
    """The film of a form."""
    path, (width, height) = folder / f"{form.name}", form.size
    with same_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream(form.codec, rate=form.rate or 1000, options=dict(form.options))
        stream.width, stream.height, stream.pix_fmt = width, height, form.pixels
        if form.rate is None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if form.turned:
            stream.set_display_rotation(form.turned)
        tick_s = Fraction(1, 1000) if form.rate is None else 1 / form.rate
        upright = form.turned % 180 == 0
        for number, start_s in enumerate(form.starts_s):
            shown = picture(number, *((width, height) if upright else (height, width)))
            stored = np.rot90(shown, -form.turned // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24").reformat(
                format=form.pixels
            )
            frame.pts, frame.time_base = round(start_s / tick_s), tick_s
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
