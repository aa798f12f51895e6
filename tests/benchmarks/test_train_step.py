"""The benchmark of the step, in small: what it reports, and that it stands on one compilation."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from revision_jax.benchmarks import torch_step, train_step
from revision_jax.parallel.programs import forget


def test_a_line_of_json_with_every_variant(capsys):
    assert train_step.main(["--steps", "2", "--batch", "2", "--dtype", "bfloat16,float32"]) == 0
    report = json.loads(capsys.readouterr().out)
    narrow, wide = report["variants"]
    assert (narrow["dtype"], wide["dtype"]) == ("bfloat16", "float32")
    assert narrow["first_loss"] == pytest.approx(wide["first_loss"], rel=2e-2)
    assert wide["step_ms"] > 0 and wide["python_ms"] > 0 and wide["tokens_per_s"] > 0
    if jax.default_backend() == "cpu":
        assert wide["mfu"].startswith("not measured")


def test_pytorch_takes_turns_with_each_variant(torch, monkeypatch, capsys):
    """In a thread here, which does the work that a process of its own does."""
    toy = ["--steps", "1", "--batch", "2", "--dtype", "float32", "--torch"]
    train_step.main(toy)
    alone = json.loads(capsys.readouterr().out)["torch"]
    assert alone["step_ms"] > 0 and alone["tokens_per_s"] > 0
    monkeypatch.setattr(torch_step, "_process", lambda: ThreadPoolExecutor(1))
    if jax.default_backend() != "cpu":
        with pytest.raises(ValueError, match="--repeat on a gpu: it is for CPUs"):
            train_step.main([*toy, "--repeat", "2"])
        return
    train_step.main([*toy, "--repeat", "2"])
    report = json.loads(capsys.readouterr().out)
    [row] = report["beside"]
    assert row["work"] == f"train step, `toy`: 2 rows of {report['tokens_a_window']} tokens" and row["rounds"] == 2
    assert row["peer_is"] == "PyTorch + PEFT" and row["ratio"]["median"] > 0 and "torch" not in report


def test_a_repeat_without_pytorch_is_refused(capsys):
    with pytest.raises(SystemExit):
        train_step.main(["--repeat", "3"])
    assert "give --torch, too" in capsys.readouterr().err


def test_a_second_compilation_is_an_error(monkeypatch):
    forget()
    config = train_step.make_config(train_step.SHAPES["toy"], dtype="float32", param_dtype="float32")
    time = train_step._time

    def another_shape(step, state, batch, frozen, steps):
        more = {name: jax.numpy.concatenate([x, x]) for name, x in batch.items()}
        return time(step, step(state, more, frozen)[0], batch, frozen, steps)

    monkeypatch.setattr(train_step, "_time", another_shape)
    with pytest.raises(RuntimeError, match="compiled 2 times; expected once"):
        train_step.measure(config, train_step.TOY, 1)
