"""Who waits for the devices: one search at a time, the others in the order in which they came."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

MOST = 20  # searches that wait or run; one more is refused
T = TypeVar("T")
Tell = Callable[[str], None]


class Full(ValueError):
    """The line is full; the message says what to do."""


class Job(Generic[T]):
    """A piece of work in the line.

    Attributes:
      doing: what it said last of itself, "" before it runs.
    """

    def __init__(self, line: "Line"):
        self._line, self._future, self.doing = line, Future(), ""

    @property
    def ahead(self) -> int:
        """Jobs that are done before this one begins; 0 where it runs or has ended."""
        return self._line.ahead(self)

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; returns whether the job has ended."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> T:
        """What the work returned; raises what it raised."""
        return self._future.result()

    def leave(self) -> None:
        """Gives up the place, unless the work has begun: that goes on to its end."""
        self._future.cancel()


class Line:
    """Does one job at a time, in a thread of its own: that thread alone uses the run."""

    def __init__(self, most: int = MOST):
        self.most = most
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="search")

    def join(self, work: Callable[[Tell], T]) -> Job[T]:
        """Puts work at the end of the line.

        Args:
          work: called with a function that takes what is being done.

        Raises:
          Full: `most` jobs wait or run.
        """
        job: Job[T] = Job(self)
        with self._lock:
            if len(self._jobs) >= self.most:
                raise Full(f"{len(self._jobs)} questions wait already; expected fewer than {self.most}. Ask later.")
            self._jobs.append(job)
            job._future = self._worker.submit(work, lambda doing: setattr(job, "doing", doing))
        job._future.add_done_callback(lambda _: self._remove(job))
        return job

    def ahead(self, job: Job) -> int:
        """See `Job.ahead`."""
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0

    def close(self) -> None:
        """Lets the running job end; those that wait are given up."""
        self._worker.shutdown(cancel_futures=True)

    def _remove(self, job: Job) -> None:
        with self._lock:
            self._jobs.remove(job)
