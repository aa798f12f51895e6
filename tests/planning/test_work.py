"""How long a work takes: each resource alone, the slowest decides, and commands start."""

import pytest

from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import ON_CPU, Rates
from revision_jax.planning.work import Work, take
from revision_jax.units import GIB

# 4 chips of 100 GFLOP/s on 2 hosts; 10 GB/s from memory, 5 GB/s to neighbours, 1 GB/s between hosts.
MACHINE = Machine("made up", 4, 2, 100e9, 16, 10e9, 5e9, 1e9)
RATES = Rates(cores=2.0, windows_s=100.0, read_gbs=0.5, start_s=60.0)


def test_every_resource_by_hand():
    work = Work(
        name="all", flops=4e14, utilisation=0.25, chips=4, memory_bytes=2e12, link_bytes=1e12, slow_bytes=1e11,
        core_s=8000, windows=1e5, read_bytes=3e11, written_bytes=1e11,
    )  # fmt: skip
    step = take(work, MACHINE, RATES)
    assert step.seconds == {
        "arithmetic": 4000.0,  # 4e14 / (4 x 100e9 x 0.25)
        "memory": 200.0,  # 2e12 / 10e9
        "network": 300.0,  # 1e12 / 5e9 + 1e11 / 1e9
        "cores": 1000.0,  # 8000 / (2 x 4)
        "input": 500.0,  # 1e5 / (2 hosts x 100)
        "disk": 400.0,  # 4e11 / (2 hosts x 0.5e9)
        "start": 60.0,
    }
    assert step.bound == "arithmetic"
    assert step.hours == pytest.approx(4060 / 3600) and step.chip_hours == pytest.approx(4 * 4060 / 3600)
    assert step.network_gib == pytest.approx(1.1e12 / GIB) and step.read_gib == pytest.approx(4e11 / GIB)


def test_chips_that_wait_are_paid_for():
    step = take(Work(name="half", flops=2e14, chips=2), MACHINE, RATES)
    assert step.seconds["arithmetic"] == 1000.0
    half = take(Work(name="half", windows=1e5, chips=2), MACHINE, RATES)
    assert (half.seconds["input"], half.bound) == (1000.0, "input")  # one of two hosts loads
    assert step.chip_hours == pytest.approx(4 * 1060 / 3600)


def test_one_process_or_host_has_its_own_bound():
    step = take(Work(name="one", core_s=100, processes=1, read_bytes=1e11, hosts=1, commands=3), MACHINE, RATES)
    assert (step.seconds["cores"], step.seconds["disk"], step.seconds["start"]) == (100.0, 200.0, 180.0)
    assert step.bound == "disk"
    assert take(Work(name="short"), MACHINE, RATES).bound == "start"


def test_an_assumption_that_cannot_be():
    with pytest.raises(ValueError, match=r"--train_utilisation is 1.5; expected a share in \(0, 1\]"):
        Rates(train_utilisation=1.5)
    with pytest.raises(ValueError, match="--decode_rate is 0; expected a number above 0"):
        Rates(decode_rate=0.0)
    assert Rates(start_s=0.0, **{k: v for k, v in ON_CPU.items() if k != "start_s"}).start_s == 0
