"""TensorBoard's event files, read without TensorBoard."""

from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def read_events(folder: Path) -> Iterator[tuple[int, object]]:
    """(step, value with its `tag`) of every event in a folder."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")  # then its checksum, the record, the record's checksum
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                yield event.step, value
