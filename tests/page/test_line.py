"""One search at a time, in order of arrival; places are told, given up, refused."""

import threading

import pytest

from revision_jax.page.line import Full, Line


@pytest.fixture
def held():
    """A line whose devices are taken until `go.set()`: (line, job that takes them, go)."""
    line, go, begun = Line(most=4), threading.Event(), threading.Event()

    def take(tell):
        tell("takes its time")
        begun.set()
        return go.wait(10)

    job = line.join(take)
    assert begun.wait(10)
    yield line, job, go
    go.set()
    line.close()


def test_jobs_run_one_by_one_in_order(held):
    line, first, go = held
    ran = []
    jobs = [line.join(lambda tell, name=name: ran.append(name) or name) for name in "abc"]
    assert (first.ahead, first.doing) == (0, "takes its time")
    assert [job.ahead for job in jobs] == [1, 2, 3] and not jobs[0].wait(0.01) and ran == []
    go.set()
    assert [job.result() for job in (first, *jobs)] == [True, "a", "b", "c"]
    assert ran == ["a", "b", "c"] and [job.ahead for job in jobs] == [0, 0, 0]


def test_who_leaves_is_left_out_and_the_others_move_up(held):
    line, first, go = held
    ran = []
    left, last = (line.join(lambda tell, name=name: ran.append(name)) for name in "ab")
    left.leave()
    first.leave()  # has begun: goes on
    assert last.ahead == 1
    go.set()
    assert first.result() and last.result() is None and ran == ["b"]


def test_a_full_line_refuses_and_takes_again_when_one_is_done(held):
    line, first, go = held
    jobs = [line.join(lambda tell: None) for _ in range(3)]
    with pytest.raises(Full, match=r"4 questions wait already; expected fewer than 4\. Ask later"):
        line.join(lambda tell: None)
    go.set()
    assert all(job.wait(10) for job in (first, *jobs))
    assert line.join(lambda tell: "again").result() == "again"


def test_an_error_is_its_own_jobs(held):
    line, _, go = held

    def fail(tell):
        raise ValueError("no video")

    bad, good = line.join(fail), line.join(lambda tell: 1)
    go.set()
    assert good.result() == 1
    with pytest.raises(ValueError, match="no video"):
        bad.result()
