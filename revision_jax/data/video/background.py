"""Work ahead in a thread: decoding and rendering overlap with the encoder."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def in_background(items: Iterable, depth: int) -> Iterator:
    """Iterates over `items` in a thread, at most `depth` ahead; its errors are raised here.

    Closing this generator ends the thread at its next item.
    """
    return interleaved([items], depth)


def interleaved(sources: Sequence[Iterable], depth: int) -> Iterator:
    """As `in_background`, with a thread for each source: their items come as they are ready."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def produce(items: Iterable) -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:  # carried over to the consumer, which raises it
            put("error", error)

    threads = [threading.Thread(target=produce, args=(items,), daemon=True) for items in sources]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                running -= 1
            else:
                yield value
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
