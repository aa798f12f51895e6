"""Joining processes: what is not supported raises."""

import jax
import pytest

from revision_jax.parallel import multihost


def test_one_process_passes(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda: pytest.fail("no cluster was named"))
    multihost.initialize()


def test_several_processes_join_and_are_refused(monkeypatch):
    joined = []
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    monkeypatch.setattr(jax.distributed, "initialize", lambda: joined.append(True))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(NotImplementedError, match="2 processes"):
        multihost.initialize()
    assert joined


def test_who_divides_the_work_is_told_how_many_there_are(monkeypatch):
    joined = []
    for name, value in (("COORDINATOR_ADDRESS", "host:1"), ("NUM_PROCESSES", "2"), ("PROCESS_ID", "1")):
        monkeypatch.setenv(f"JAX_{name}", value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: joined.append(given))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    multihost.initialize(several=True)
    assert joined == [{"num_processes": 2, "process_id": 1}]
