"""The work of a stage: steps, FLOPs, memory and network by hand, and beside what XLA compiled at 7B."""

import dataclasses

import pytest

from revision_jax import config as configs
from revision_jax.planning.counts import PUBLISHED, Count
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.training import activation_bytes, programs_of, run_of, sent_bytes, steps_of, train_work
from revision_jax.runs.base import llama_config
from revision_jax.units import GIB

MAD = PUBLISHED["mad"][0]
V5P, V5E, V6E = (Machine.of_topology(name) for name in ("v5p-16", "v5e-16", "v6e-16"))


def run(spec: str, machine: Machine, **fields):
    return run_of(configs.load(spec, {key.replace("__", "."): value for key, value in fields.items()}), machine)


@pytest.fixture(scope="module")
def dense():
    """Stage 1 of MAD at 7B, as shapes, on v5p-16."""
    return run("configs/stage1.py:mad", V5P)


@pytest.fixture(scope="module")
def windows(dense):
    return programs_of(dense)[0]


def test_steps_of_every_stage(dense):
    assert steps_of(dense, MAD) == 5 * (2 * 280_000 // 128)  # a contrastive window for each query
    assert steps_of(run("configs/stage1_sparse.py:mad", V5P), MAD) == 2 * 280_000 // 32
    assert steps_of(run("configs/stage2.py:mad", V5P), MAD) == 2 * (280_000 // 8)
    assert steps_of(run("configs/align.py:paper", V5P), MAD) == 558_128 // 128
    assert steps_of(run("configs/stage1.py", Machine.of_cpu(1, 1)), MAD) == 400


def test_flops_are_those_of_the_step(dense, windows):
    """1.33 PFLOP for 128 windows of 36 + 250 + 96 tokens, which `compile` prints as well (docs/benchmarks.md)."""
    assert windows.flops == pytest.approx(1.33e15, rel=0.01)
    assert windows.tokens == 128 * (36 + 250 + 96) / 8
    assert windows.batch_bytes >= 128 * 250 * 768 * 2
    work = train_work(dense, MAD, V5P, Rates())
    assert work.flops == pytest.approx(21_875 * windows.flops)
    assert work.windows == 21_875 * 128
    features = 895 * 3600 * 5 * 768 * 2  # 23 GiB, which a host keeps; else each batch is read
    assert work.read_bytes == pytest.approx(features + 2 * windows.parts["frozen weights"])
    small = train_work(dense, MAD, V5P, Rates(cache_gib=20.0)).read_bytes
    assert small == pytest.approx(21_875 * windows.batch_bytes + 2 * windows.parts["frozen weights"])
    assert (work.chips, work.note) == (8, "21,875 steps")
    saved = windows.parts["trained"] + windows.parts["optimizer"]
    assert work.written_bytes == 44 * saved and work.disk_bytes == 2 * saved  # every 500 steps, two are kept


# GiB of activations and temporaries that libtpu gave a chip (docs/benchmarks.md, What fits which TPU slice).
@pytest.mark.parametrize(
    "machine, rows, compiled",
    [(V5P, 16, 11.0), (V6E, 8, 6.2), (Machine.of_topology("v5p-256"), 1, 2.5)],
    ids=["v5p-16", "v6e-16", "v5p-256"],
)
def test_memory_beside_what_was_compiled(dense, windows, machine, rows, compiled):
    shared = dataclasses.replace(windows, tokens=rows * 382)
    kept = rows * 382 * 32 * 6 * 4096 * 2  # 6 values of the width a token and layer, bfloat16
    assert activation_bytes(dense, shared) == pytest.approx(kept + 3 * windows.parts["trained"])
    assert activation_bytes(dense, shared) / GIB == pytest.approx(compiled, rel=0.1)


def test_network_beside_what_was_compiled(dense, windows):
    """144 ms on v5e-16 with fsdp 16, 2 ms on v5p-16 with data 8 (the same table)."""
    inside, gradients = sent_bytes(dense, windows)
    assert (inside, gradients) == (0, 2 * windows.parts["trained"])
    assert gradients / V5P.link_bytes == pytest.approx(2e-3, rel=0.1)
    split = run("configs/stage1.py:mad", V5E, mesh__data="1", mesh__fsdp="16")
    inside, gradients = sent_bytes(split, programs_of(split)[0])
    assert inside == 2 * windows.weight_bytes
    assert (inside + gradients) / V5E.link_bytes == pytest.approx(0.144, rel=0.05)


def test_layers_that_are_split_send_their_sums():
    split = run("configs/stage1.py", Machine.of_gpus("2xH100"), mesh__data="1", mesh__tensor="2")
    (program,) = programs_of(split)
    assert program.tokens == 16 * (len(split.prompts.prefix) + 64 + 4 * 28)  # prefix, frames, four texts
    sizes = llama_config(split.config)
    sums = 4 * sizes.num_layers * program.tokens * sizes.hidden_size * 4  # two a layer, forward and backward, float32
    assert sent_bytes(split, program) == (2 * sums, 0)


def test_a_batch_of_eight_groups_uses_eight_chips():
    pod = Machine.of_topology("v5p-128")
    work = train_work(run("configs/stage2.py", pod), Count(10, 10, 1000), pod, Rates())
    assert work.chips == 8 and work.note == "1,000 steps, 8 of 64 chips work"


def test_both_group_sizes_count_half():
    long = run("configs/stage2.py", Machine.of_cpu(1, 1))
    few, many = sorted(program.flops for program in programs_of(long))
    work = train_work(long, Count(64, 64, 5343), Machine.of_cpu(1, 1), Rates())
    assert work.flops == pytest.approx(1000 * (few + many) / 2)
    assert work.windows == 1000 * 8 * (48 + 16) / 2
