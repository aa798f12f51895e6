"""Work ahead in a thread: decoding and rendering overlap with the encoder."""

import queue
import threading
from collections.abc import Iterable, Iterator


def in_background(items: Iterable, depth: int) -> Iterator:
    """Iterates over `items` in a thread, at most `depth` ahead; its errors are raised here.

    Closing this generator ends the thread at its next item.
    """
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind, value):
        while not stopped.is_set():
            try:
                return ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def produce():
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:  # carried over to the consumer, which raises it
            put("error", error)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()
