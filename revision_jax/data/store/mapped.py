"""A shard's file mapped into memory: frames are copied from the page cache straight to their row of a batch.

ArrayRecord's reader copies and hashes whole records at every read, which costs more than all other work on a window.
Therefore a record is read through it once, which verifies it. Then the record's payload is searched in the mapped file
and compared, and later reads copy frames from there. A record whose payload is not found, such as a compressed one, is
always read through the reader.

Riegeli, the format below ArrayRecord, puts a header of 24 bytes at every 64 KiB of the file, also inside records. A
`logical` place counts bytes without these headers. Letters: n frames, D feature width.
"""

import mmap
import os
from collections.abc import Iterator

import numpy as np

BLOCK, HEADER = 1 << 16, 24
ROOM = BLOCK - HEADER  # bytes of content in a block
PART = 256  # frames copied at a time: they pass through a buffer that the processor's cache holds
UNKNOWN, ABSENT = -1, -2


class MappedShard:
    """The payloads of one shard's records, found one by one.

    Args:
      path: the file; its size was checked.
      records: how many it holds.
      row_bytes: of a frame.
    """

    def __init__(self, path: str | os.PathLike, records: int, row_bytes: int):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        # Every run of `row_bytes` of the file, by where it starts: a view, nothing is copied.
        starts = max(0, len(self._bytes) - row_bytes + 1)
        self._rows = np.lib.stride_tricks.as_strided(self._bytes, (starts, row_bytes), (1, 1), writeable=False)
        self.row_bytes = row_bytes
        self._logical = np.full(records, UNKNOWN, np.int64)  # of each record's payload, or one of the above
        self._last, self._stride = (0, 0), 0.0  # the last record found, and bytes from one to the next

    def found(self, records: np.ndarray) -> np.ndarray:
        """Whether frames of each record can be copied from the file: `[n]` bool."""
        return self._logical[records] >= 0

    def locate(self, record: int, payload: np.ndarray) -> None:
        """Searches a verified record's payload (uint8) and remembers its place, or that it was not found."""
        if self._logical[record] != UNKNOWN:
            return
        self._logical[record] = ABSENT
        for logical in self._guesses(record, payload):
            if self._matches(logical, payload):
                self._logical[record] = logical
                before, place = self._last
                if record != before:
                    self._stride = (logical - place) / (record - before)
                self._last = record, logical
                return

    def _guesses(self, record: int, payload: np.ndarray) -> Iterator[int]:
        """Places where a payload may begin: by the distance of earlier records, then by its first bytes."""
        before, place = self._last
        if self._stride:
            yield round(place + (record - before) * self._stride)
        # Records are about equally long: it lies near its share of the file.
        share = int(len(self._bytes) * record / len(self._logical))
        low, high = max(0, share - 2 * len(payload) - BLOCK), share + 3 * len(payload) + BLOCK
        needle = payload[:64].tobytes()
        place = self._map.find(needle, low, high)
        while place >= 0:
            yield place - (place // BLOCK + 1) * HEADER
            place = self._map.find(needle, place + 1, high)

    def _matches(self, logical: int, payload: np.ndarray) -> bool:
        """Whether the payload lies at a place, from its first byte to its last."""
        if logical < 0 or physical(logical + len(payload)) > len(self._bytes):
            return False
        done = 0
        while done < len(payload):
            place = int(physical(logical + done))
            piece = min(BLOCK - place % BLOCK, len(payload) - done)
            if not np.array_equal(self._bytes[place : place + piece], payload[done : done + piece]):
                return False
            done += piece
        return True

    def copy(self, records: np.ndarray, inside: np.ndarray, out: np.ndarray) -> None:
        """Frames -> `out`.

        Args:
          records: `[n]` number of the record of each frame; all `found`.
          inside: `[n]` number of the frame within its record.
          out: `[n, D]` of the stored dtype, contiguous.
        """
        rows, size = out.view(np.uint8), self.row_bytes
        first = physical(self._logical[records] + inside * size)
        for start in range(0, len(first), PART):
            part = slice(start, start + PART)
            np.copyto(rows[part], self._rows[first[part]])
        heads = BLOCK - first % BLOCK
        split = np.flatnonzero(heads < size)  # a block's header stands amid the frame
        into, whole = memoryview(rows.reshape(-1)), memoryview(self._map)
        for row, place, head in zip((split * size).tolist(), first[split].tolist(), heads[split].tolist()):
            into[row : row + head] = whole[place : place + head]
            rest = size - head
            place += head + HEADER
            while rest > 0:  # a frame may be longer than a block
                piece = min(rest, ROOM)
                done = size - rest
                into[row + done : row + done + piece] = whole[place : place + piece]
                rest, place = rest - piece, place + BLOCK


def physical(logical: np.ndarray | int) -> np.ndarray | int:
    """Logical place of a byte -> its place in the file."""
    return logical // ROOM * BLOCK + HEADER + logical % ROOM
