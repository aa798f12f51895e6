"""Recordings joined byte by byte in containers whose readers, players too, stop at the end of the first."""

import mmap
import os
import re
import struct

FLV_START = re.compile(rb"FLV\x01[\x00\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00")


def second_recording(path: str | os.PathLike, container: str) -> int | None:
    """Byte at which another recording begins in an mp4, mov or flv, or None.

    Args:
      container: FFmpeg's name of it.
    """
    names = container.split(",")
    if "mov" in names:
        return _second_index(path)
    if "flv" in names:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = FLV_START.search(data, 13)
            return found.start() if found else None
    return None


def _second_index(path) -> int | None:
    """Byte of the second `ftyp` or `moov` box of an mp4: a file has one of each."""
    seen, at, size = set(), 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16).ljust(16, b"\0")
            length, kind = struct.unpack(">I4s", head[:8])
            if kind in seen:
                return at
            if kind in (b"ftyp", b"moov"):
                seen.add(kind)
            length = struct.unpack(">Q", head[8:])[0] if length == 1 else length
            if length < 8:  # up to the end of the file, or damage
                return None
            at += length
    return None
