"""Who is there: threads of one process stand in for hosts."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from revision_jax.parallel.clusters import Cluster
from revision_jax.parallel.rendezvous import missing_processes


def gather(numbers, processes, limit):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    ask = lambda number: missing_processes(Cluster("plain", address, processes, number), limit)
    with ThreadPoolExecutor(len(numbers)) as pool:
        return [future.result() for future in [pool.submit(ask, number) for number in numbers]]


def test_all_came():
    assert gather([2, 0, 1], 3, 10) == [[], [], []]


def test_all_that_came_learn_who_is_missing():
    assert gather([0, 2], 4, 0.6) == [[1, 3]] * 2


def test_without_the_first_it_is_that_one_who_is_missing():
    assert gather([1], 2, 0.3) == [[0]]


def test_a_number_given_twice():
    with pytest.raises(ValueError, match=r"\[1\] are given twice; expected 0 to 2"):
        gather([0, 1, 1], 3, 0.6)
