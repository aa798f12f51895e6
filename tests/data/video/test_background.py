"""Work in a thread: order, errors, and no thread left behind."""

import threading
import time

import pytest

from revision_jax.data.video.background import in_background


def test_order_and_bound():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    taken = in_background(items(), depth=2)
    assert next(taken) == 0
    time.sleep(0.2)
    assert len(made) <= 5
    assert list(taken) == list(range(1, 20))


def test_errors_come_after_the_items_before_them():
    def items():
        yield 1
        raise KeyError("lost")

    taken = in_background(items(), depth=4)
    assert next(taken) == 1
    with pytest.raises(KeyError, match="lost"):
        next(taken)


def test_closing_ends_the_thread():
    before = threading.active_count()
    taken = in_background(iter(range(10**9)), depth=2)
    next(taken)
    taken.close()
    assert threading.active_count() == before
