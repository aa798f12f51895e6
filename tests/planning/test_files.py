"""Steps that read and write files: what the encoder costs, and how large things are."""

import pytest

from revision_jax import config as configs
from revision_jax.planning.counts import PUBLISHED, Count
from revision_jax.planning.files import export_work, frame_flops, image_work, llm_parameters, prepare_work
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.work import take
from revision_jax.runs.base import CLIP_L14
from revision_jax.units import GIB

NODE = Machine.of_gpus("8xH100")
MAD = configs.load("configs/stage1.py:mad")


def test_a_frame_through_clip_l14():
    layer = 2 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 257 * 1024  # a token: matrices, attention over 257
    by_hand = 24 * 257 * layer + 2 * 256 * 588 * 1024 + 2 * 1024 * 768
    assert frame_flops(CLIP_L14) == by_hand == pytest.approx(162e9, rel=0.01)


def test_vicuna_has_its_parameters():
    assert llm_parameters(MAD) == 6_738_415_616  # as lmsys/vicuna-7b-v1.5 says
    work = export_work(MAD)
    assert work.disk_bytes == 2 * 6_738_415_616 and work.read_bytes == 2 * work.disk_bytes
    assert work.host_bytes / GIB == pytest.approx(3.4, rel=0.15)  # measured, docs/benchmarks.md


def test_features_of_mad():
    counts = dict(zip(("train", "val", "test"), PUBLISHED["mad"]))
    work = prepare_work(MAD, counts, "features", NODE, Rates())
    assert work.disk_bytes == 1192 * 3600 * 5 * 768 * 2 == work.read_bytes
    assert (work.flops, work.commands, work.processes) == (0, 3, 1)
    assert work.core_s == pytest.approx(work.disk_bytes / 0.2e9)  # one process of the host writes them anew


def test_videos_are_decoded_and_encoded():
    rates = Rates(decode_rate=10, video_gb_hour=0.5, cores=4, encode_utilisation=0.1)
    work = prepare_work(MAD, {"test": Count(10, 20.0, 5)}, "videos", NODE, rates)
    assert work.core_s == 20 * 3600 / 10 and work.read_bytes == 10e9
    assert work.flops == 20 * 3600 * 5 * frame_flops(CLIP_L14)
    step = take(work, NODE, rates)
    assert step.seconds["cores"] == 7200 / 32
    assert step.seconds["arithmetic"] == pytest.approx(work.flops / (8 * 989e12 * 0.1))
    assert step.device_gib == pytest.approx(3.1, rel=0.1)  # compiled: 3.0 to 3.2 (docs/benchmarks.md)


def test_shapes_are_rendered_by_one_process():
    work = prepare_work(configs.load("configs/stage1.py"), {"train": Count(64, 64.0, 1)}, "shapes", NODE, Rates())
    assert (work.core_s, work.processes, work.flops) == (64 * 3600 / 870, 1, 0)


def test_images_of_the_align_stage():
    assert image_work(MAD, Rates()) == 0
    rates = Rates(train_utilisation=0.4, encode_utilisation=0.2)
    assert image_work(configs.load("configs/align.py:paper"), rates) == 2 * 558_128 * frame_flops(CLIP_L14)
