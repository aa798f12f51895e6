"""The assumptions of a plan: each has a default, and says where it comes from. The flags of `plan` are made of them."""

import argparse
import dataclasses

_GPU = "docs/benchmarks.md, GPU: one H100"


def _rate(default: float, what: str, source: str) -> float:
    return dataclasses.field(default=default, metadata={"what": what, "source": source})


@dataclasses.dataclass(frozen=True)
class Rates:
    """What cannot be counted. Each field is a flag of `plan`; `describe` lists all of them."""

    train_utilisation: float = _rate(
        0.33, "share of the peak that model FLOPs of training reach", f"measured, {_GPU}: 0.33 to 0.35 with remat=names"
    )
    search_utilisation: float = _rate(
        0.12, "the same of a search", f"measured, {_GPU}: 114 to 126 of 989 TFLOP/s at depth 3"
    )
    encode_utilisation: float = _rate(0.2, "the same of the encoder of frames, in float32", "assumed, not measured")
    decode_rate: float = _rate(
        12.0,
        "seconds of video that a core decodes and scales a second",
        "measured: 1280 x 720 at 30 fps, docs/scale.md",
    )
    render_rate: float = _rate(
        870.0, "seconds of Shapes that a process renders and encodes a second", "measured, docs/benchmarks.md: 64 h"
    )
    cores: float = _rate(26.0, "cores of a host for each chip", "assumed: 208 vCPUs beside 8 GPUs; docs/scale.md")
    take_gbs: float = _rate(0.2, "GB a second of others' features that a host writes anew", "assumed: one process")
    windows_s: float = _rate(
        3000.0, "windows a second that a host's pipeline loads", "measured, docs/benchmarks.md, The input pipeline"
    )
    cache_gib: float = _rate(300.0, "memory of a host that keeps what was read of files", "assumed")
    read_gbs: float = _rate(1.0, "GB a second that a host reads from and writes to its disk", "assumed: shared storage")
    video_gb_hour: float = _rate(0.7, "GB of an hour of video", "assumed: 1.5 Mbit/s")
    question_tokens: float = _rate(
        22.0, "tokens of a question behind the words that all share", "assumed: 12 words and ` ASSISTANT:`"
    )
    answer_tokens: float = _rate(
        1.2, "tokens of an answer about a window", "measured on Shapes: most are settled by one, `Not Present`"
    )
    start_s: float = _rate(
        180.0, "seconds of a command for start, weights and compiling", "docs/benchmarks.md: 43 to 140 s a program"
    )

    program_s: float = _rate(
        43.0, "seconds to compile one more program of a search", "docs/benchmarks.md: 43 to 140; small ones less"
    )

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            least = value >= 0 if name in ("start_s", "program_s", "video_gb_hour") else value > 0
            if not least or (name.endswith("utilisation") and value > 1):
                bounds = "a share in (0, 1]" if name.endswith("utilisation") else "a number above 0"
                raise ValueError(f"--{name} is {value:g}; expected {bounds}.")


# program_s: 51 s of the compiler for 14 programs, and their tracing; docs/benchmarks.md.
ON_CPU = {
    "train_utilisation": 1.0, "search_utilisation": 1.0, "encode_utilisation": 1.0, "cores": 1.0, "start_s": 20.0,
    "program_s": 5.0,
}  # fmt: skip


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each assumption; its help names the default and the source."""
    group = parser.add_argument_group("assumptions")
    for field in dataclasses.fields(Rates):
        text = f"{field.metadata['what']} (default: {field.default:g}; {field.metadata['source']})"
        group.add_argument(f"--{field.name}", type=float, metavar="X", help=text)


def rates_of(args: argparse.Namespace, *, on_cpu: bool = False) -> Rates:
    """The assumptions as the flags have them.

    Args:
      on_cpu: those that are not given are `ON_CPU`'s: there the peak itself was measured.

    Raises:
      ValueError: one that cannot be.
    """
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Rates)}
    given = {name: value for name, value in given.items() if value is not None}
    return Rates(**(ON_CPU if on_cpu else {}) | given)
