"""The work of a stage's training, in closed form: FLOPs of `training.flops`, bytes of weights, gradients and batches.

Letters: L layers, H width, I MLP width, P prefix tokens, T text tokens.
"""

import dataclasses
import math
from collections.abc import Mapping

from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from revision_jax.ahead.programs import train_programs
from revision_jax.planning.counts import LCS_IMAGES, Count
from revision_jax.planning.machine import Machine, batch_parts, plan_mesh
from revision_jax.planning.rates import Rates
from revision_jax.planning.work import Work
from revision_jax.runs.base import encoder_of, llama_config
from revision_jax.runs.batches import CAPTIONS, GROUPS
from revision_jax.runs.run import Run
from revision_jax.runs.stage import stage_of
from revision_jax.units import GIB

PROCESS = 1.0 * GIB  # of a host: Python, JAX and one tensor that is read at a time
A_QUERY, A_VIDEO = 427, 592  # bytes of a host's memory at most (docs/benchmarks.md, Start-up)
# Values a token and layer that the backward pass finds in memory, as multiples of H and of I, by remat policy.
KEPT = {"full": (1, 0), "names": (6, 0), "mlp": (6, 2), "none": (8, 3)}


@dataclasses.dataclass(frozen=True)
class Program:
    """One kind of batch of a stage.

    Attributes:
      flops, executed: of a step, over all chips: what the model needs, and with what remat repeats.
      parts: name -> bytes that a chip holds all the time.
      weight_bytes: of frozen weights that a chip multiplies by in one pass.
      tokens: of a step that one chip sees at a time.
      windows: of a step, over all chips.
      batch_bytes: of a step, over all chips.
    """

    name: str
    flops: float
    executed: float
    parts: Mapping[str, float]
    weight_bytes: float
    tokens: float
    windows: int
    batch_bytes: float


def steps_of(run: Run, count: Count) -> int:
    """Updates of a stage's training: `train.steps`, or whole batches of `train.epochs` passes.

    A query is one moment; windows come with `data.neg_factor` contrastive ones, groups do not.
    """
    config = run.config
    if config.train.steps:
        return config.train.steps
    batches = 0
    for kind in run.stage.batches:
        rows = LCS_IMAGES if kind is CAPTIONS else count.queries * (1 + config.data.neg_factor * (kind is not GROUPS))
        batches += int(rows // kind.rows(config))
    return config.train.epochs * batches


def programs_of(run: Run) -> list[Program]:
    """The programs of a stage on its mesh, from shapes alone: nothing is compiled."""
    found = []
    for name, _, facts in train_programs(run, 0.0):
        split = batch_parts(run.mesh)
        found.append(
            Program(
                name=name,
                flops=facts["flops"],
                executed=facts["executed"],
                parts={part: size for part, size in facts["parts"].items() if part != "batch"},
                weight_bytes=facts["weight_bytes"],
                tokens=facts["tokens"] / split / run.config.train.accumulate,
                windows=facts["windows"],
                batch_bytes=facts["parts"]["batch"] * split,
            )
        )
    return found


def activation_bytes(run: Run, program: Program) -> float:
    """Bytes that a chip keeps for the backward pass, with the gradients of what is trained and their sums."""
    sizes, remat = llama_config(run.config), run.config.model.remat
    hidden, inner = KEPT[remat]
    width = 2 if run.config.model.dtype == "bfloat16" else 4
    values = hidden * sizes.hidden_size + inner * sizes.intermediate_size
    kept = program.tokens * sizes.num_layers * values * width / run.mesh.shape["tensor"]
    return kept + 3 * program.parts["trained"]


def sent_bytes(run: Run, program: Program) -> tuple[float, float]:
    """Bytes that a chip sends in a step: (gathered and reduced inside, gradients between those that hold the same).

    With `fsdp` the frozen weights are gathered forward and backward. A ring sends a reduced array twice.
    """
    mesh: AbstractMesh = run.mesh
    sizes = llama_config(run.config)
    inside = 2 * program.weight_bytes * (mesh.shape["fsdp"] > 1)
    width = 2 if run.config.model.dtype == "bfloat16" else 4
    if mesh.shape["tensor"] > 1:  # two sums a layer, forward and backward
        inside += 2 * 4 * program.tokens * run.config.train.accumulate * sizes.hidden_size * width * sizes.num_layers
    return inside, 2 * program.parts["trained"] * (batch_parts(mesh) > 1)


def feature_bytes(config: ConfigDict, count: Count) -> float:
    """Of a split's features, float16."""
    return count.hours * 3600 * config.data.fps * encoder_of(config)[1].feature_width * 2


def read_bytes(run: Run, count: Count, batches: float, rates: Rates) -> float:
    """Bytes of features that all hosts read in a training, whose batches hold `batches` bytes.

    Where a host keeps them all, it reads each once.
    """
    features = feature_bytes(run.config, count)
    kept = features <= rates.cache_gib * GIB and CAPTIONS not in run.stage.batches
    return min(batches, features) if kept else batches


def train_work(run: Run, count: Count, machine: Machine, rates: Rates) -> Work:
    """The work of a stage; its kinds of batches come in turn."""
    programs, steps = programs_of(run), steps_of(run, count)
    a_step = lambda value: sum(map(value, programs)) / len(programs)
    chips = math.prod(run.mesh.shape.values())
    passes = lambda one: 3 if one.executed > one.flops * 1.2 else 2
    sent = [sent_bytes(run, one) for one in programs]
    inside, gradients = (sum(values) / len(programs) for values in zip(*sent))
    held = [sum(one.parts.values()) + one.batch_bytes / batch_parts(run.mesh) for one in programs]
    device = max(own + activation_bytes(run, one) for own, one in zip(held, programs))
    saved = programs[0].parts["trained"] + programs[0].parts["optimizer"]
    saves = steps // run.config.train.checkpoint_every + 1
    weights = programs[0].parts["frozen weights"] * run.mesh.shape["fsdp"] * run.mesh.shape["tensor"]
    batches = max(one.batch_bytes for one in programs) / machine.hosts * (run.config.data.prefetch + 2)
    host = PROCESS + saved + batches + A_QUERY * count.queries + A_VIDEO * count.videos
    notes = [f"{steps:,} steps"] + ([f"{chips} of {machine.chips} chips work"] if chips < machine.chips else [])
    return Work(
        name=run.stage.name,
        flops=steps * a_step(lambda one: one.flops),
        utilisation=rates.train_utilisation,
        chips=chips,
        memory_bytes=steps * a_step(lambda one: one.weight_bytes * passes(one) + 2 * activation_bytes(run, one)),
        link_bytes=steps * (inside + (0 if machine.slow_bytes < machine.link_bytes else gradients)),
        slow_bytes=steps * gradients * (machine.slow_bytes < machine.link_bytes),
        windows=steps * a_step(lambda one: one.windows),
        read_bytes=weights * machine.hosts + read_bytes(run, count, steps * a_step(lambda one: one.batch_bytes), rates),
        written_bytes=saves * saved,
        disk_bytes=run.config.train.keep_checkpoints * saved,
        host_bytes=host + (device if machine.name == "CPU" else 0),
        device_bytes=device,
        note=", ".join(notes),
    )


def run_of(config: ConfigDict, machine: Machine) -> Run:
    """A run of a config on a machine that is not there."""
    rows = math.gcd(*(kind.rows(config) for kind in stage_of(config).batches))
    return Run(config, mesh=plan_mesh(config, machine, rows))
