"""Queries as columns: a query of a dozen words takes about 150 bytes, and a `Query` is made when it is asked for.

Letters: n queries, m moments of all of them.
"""

import dataclasses
import functools
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.query import Ids, Interval, Query, check_ids
from revision_jax.prompts import normalize_event

DERIVED = ("_hashes", "_numbers", "_events")  # made of hashes, which differ from process to process


@dataclasses.dataclass(frozen=True)
class Texts(Sequence[str]):
    """Strings in one block of UTF-8. ends: `[n]` int32, or int64 of a block above 2 GiB, where each ends."""

    block: bytes
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self.ends):
            raise IndexError(f"text {number} of {len(self.ends)}")
        return self.block[self.ends[number - 1] if number else 0 : self.ends[number]].decode()


@dataclasses.dataclass(frozen=True)
class Spans:
    """Intervals of queries. times: `[m, 2]` float64 s. ends: `[n]` int32 or int64, where those of each query end."""

    times: np.ndarray
    ends: np.ndarray

    def __getitem__(self, number: int) -> tuple[Interval, ...]:
        return tuple(map(tuple, self.times[self.ends[number - 1] if number else 0 : self.ends[number]].tolist()))

    @property
    def counts(self) -> np.ndarray:
        """`[n]`, of the kind of `ends`: intervals of each query."""
        return np.diff(self.ends, prepend=0)

    def counts_of(self, numbers: np.ndarray) -> np.ndarray:
        """`[k]`, of the kind of `ends`: intervals of some queries `[k]`."""
        return self.ends[numbers] - np.where(numbers > 0, self.ends[numbers - 1], 0)

    @property
    def sound(self) -> bool:
        """Whether 0 <= start < end < infinity holds for all."""
        start, end = self.times[:, 0], self.times[:, 1]
        return bool(((start >= 0) & (start < end) & (end < math.inf)).all())


class QueryTable(Sequence[Query]):
    """A sequence of queries with different ids.

    Attributes:
      ids, sentences: of each query.
      video_ids: every video that is asked about, once.
      video: `[n]` int32, the place of each query's video among them.
      moments, distractors: of each query.
      benchmark: place of a query -> its `Query.ids`, of those that have some.

    Raises:
      ValueError: an id occurs twice.
    """

    def __init__(
        self,
        ids: Texts,
        videos: tuple[Sequence[str], np.ndarray],
        sentences: Texts,
        moments: Spans,
        distractors: Spans,
        benchmark: Mapping[int, Ids],
    ):
        self.ids, self.sentences, self.moments, self.distractors = ids, sentences, moments, distractors
        self.video_ids, self.video = videos
        self.benchmark = benchmark
        self._index()

    @classmethod
    def of(cls, queries: Iterable[Query]) -> "QueryTable":
        """Queries as a table; a table as it is."""
        if isinstance(queries, QueryTable):
            return queries
        columns = _Columns()
        for query in queries:
            columns.add(query.query_id, query.video_id, query.sentence, query.moments, query.distractors)
            columns.keep(query.query_id, query.ids)
        return columns.table()

    def _index(self) -> None:
        """Sorted hashes of the ids `[n]` int64, and whose they are `[n]` int32."""
        hashes = np.fromiter((hash(self.ids[number]) for number in range(len(self))), np.int64, len(self))
        self._numbers = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._numbers]
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]).tolist():
            first, second = (self.ids[self._numbers[at]] for at in (place, place + 1))
            if first == second:
                raise ValueError(f"query id {first!r} occurs twice; expected unique ids")

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"query {number} of {len(self)}")
        number %= len(self)
        query = object.__new__(Query)  # its fields were checked when the table was made
        query.__dict__.update(
            query_id=self.ids[number], video_id=self.video_ids[self.video[number]], sentence=self.sentences[number],
            moments=self.moments[number], distractors=self.distractors[number], ids=self.benchmark.get(number, ()),
        )  # fmt: skip
        return query

    def __iter__(self) -> Iterator[Query]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other) -> bool:
        if not isinstance(other, QueryTable | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None

    def number(self, query_id: str) -> int:
        """The place of the query with an id; KeyError if there is none."""
        wanted = hash(query_id)
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self) and self._hashes[place] == wanted:
            if self.ids[number := int(self._numbers[place])] == query_id:
                return number
            place += 1
        raise KeyError(query_id)

    @functools.cached_property
    def _events(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted hashes of the events that the sentences name `[n]` int64, and whose they are `[n]` int32."""
        hashes = np.fromiter((hash(normalize_event(self.sentences[n])) for n in range(len(self))), np.int64, len(self))
        numbers = np.argsort(hashes, kind="stable").astype(np.int32)
        return hashes[numbers], numbers

    def saying(self, sentence: str) -> np.ndarray:
        """`[k]` int32, ascending: the queries that name the same event as a sentence."""
        hashes, numbers = self._events
        wanted = hash(normalize_event(sentence))
        return numbers[np.searchsorted(hashes, wanted) : np.searchsorted(hashes, wanted, side="right")]

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {video_id: place for place, video_id in enumerate(self.video_ids)}

    def about(self, video_id: str) -> np.ndarray:
        """`[k]` int64, ascending: the queries about a video; none about one that no query names."""
        return np.flatnonzero(self.video == self._places.get(video_id, -1))

    @functools.cached_property
    def repeated(self) -> np.ndarray:
        """`[n]` bool: whether another query about the same video names the same event."""
        hashes, numbers = self._events
        _, group, counts = np.unique(
            np.stack([hashes, self.video[numbers]], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        found = np.zeros(len(self), bool)
        found[numbers] = counts[group.reshape(-1)] > 1
        return found

    @functools.cached_property
    def showing_counts(self) -> np.ndarray:
        """`[n]` int32: in how many videos the event of each query happens."""
        hashes, numbers = self._events
        groups = np.cumsum(np.concatenate([[False], hashes[1:] != hashes[:-1]])) if len(self) else hashes
        shown = self.moments.counts_of(numbers) > 0
        pairs = np.unique(np.stack([groups[shown], self.video[numbers[shown]]], axis=1), axis=0)
        counts = np.zeros(len(self), np.int32)
        counts[numbers] = np.bincount(pairs[:, 0], minlength=len(self))[groups]
        return counts

    def videos_showing(self, sentence: str) -> list[str]:
        """The videos in which an event happens, by the queries that name it."""
        numbers = self.saying(sentence)
        shown = numbers[self.moments.counts_of(numbers) > 0]
        return [self.video_ids[place] for place in np.unique(self.video[shown]).tolist()]

    def durations(self, durations: Mapping[str, float]) -> np.ndarray:
        """`[n]` float64 s: how long each query's video lasts; NaN where `durations` (by video id) does not say."""
        return np.array([durations.get(name, math.nan) for name in self.video_ids], np.float64)[self.video]

    def inside(self, durations: Mapping[str, float]) -> bool:
        """Whether every video is known and holds all moments and distractors of its queries."""
        last = self.durations(durations)
        if np.isnan(last).any():
            return False
        spans = (self.moments, self.distractors)
        return all((s.times[:, 1] <= np.repeat(last, s.counts) + 1e-3).all() for s in spans)  # rounded to ms

    @property
    def plain(self) -> bool:
        """Whether all ids can be names: without control characters, and nothing else that does not print."""
        texts = (self.ids.block.decode(), *self.video_ids)
        return all(text.isprintable() for text in texts)

    def without(self, query_ids: Iterable[str]) -> Sequence[Query]:
        """The table without some of its queries."""
        left_out = set(query_ids)
        return QueryTable.of(query for query in self if query.query_id not in left_out) if left_out else self

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in DERIVED}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._index()  # hashes differ from process to process


@dataclasses.dataclass(frozen=True)
class SentencesById:
    """Query id -> its sentence."""

    queries: QueryTable

    def __getitem__(self, query_id: str) -> str:
        return self.queries.sentences[self.queries.number(query_id)]


class _Columns:
    """Collects the columns of a table."""

    def __init__(self):
        self.texts = bytearray(), bytearray()
        self.text_ends = array("q"), array("q")
        self.places: dict[str, int] = {}
        self.video = array("i")
        self.times = array("d"), array("d")
        self.span_ends = array("q"), array("q")
        self.benchmark: dict[int, Ids] = {}

    def add(self, query_id: str, video_id: str, sentence: str, moments: Iterable, distractors: Iterable) -> None:
        """One query. ValueError, TypeError, OverflowError or AttributeError for fields of another kind."""
        if not (query_id.strip() and sentence.strip() and video_id.strip()):
            raise ValueError("empty text")
        place = self.places.setdefault(video_id, len(self.places))
        if place == len(self.places) - 1:
            video_id.encode()
        self.video.append(place)
        for block, ends, text in zip(self.texts, self.text_ends, (query_id, sentence)):
            block += text.encode()
            ends.append(len(block))
        for times, ends, spans in zip(self.times, self.span_ends, (moments, distractors)):
            for start, end in spans:
                times.append(start)
                times.append(end)
            ends.append(len(times) // 2)

    def keep(self, query_id: str, ids: Ids | Mapping[str, str | int]) -> None:
        """The ids that the query added last has in the original annotations; ValueError for anything else."""
        if ids:
            self.benchmark[len(self.video) - 1] = check_ids(query_id, ids)

    def table(self) -> QueryTable:
        ids, sentences = (Texts(bytes(block), _narrow(ends)) for block, ends in zip(self.texts, self.text_ends))
        moments, distractors = (
            Spans(np.array(times, np.float64).reshape(-1, 2), _narrow(ends))
            for times, ends in zip(self.times, self.span_ends)
        )
        videos = list(self.places), np.array(self.video, np.int32)
        return QueryTable(ids, videos, sentences, moments, distractors, self.benchmark)


def _narrow(ends: array) -> np.ndarray:
    """Ascending numbers as int32 where they fit, else int64."""
    return np.array(ends, np.int32 if not ends or ends[-1] < 2**31 else np.int64)


def read_table(path: str | os.PathLike) -> QueryTable | None:
    """The queries of a jsonl file; None where anything about it is wrong or unusual."""
    columns = _Columns()
    try:
        with open(path, "rb") as file:
            for line in file:
                row = json.loads(line.decode())
                columns.add(
                    row["query_id"], row["video_id"], row["sentence"], row["moments"], row.get("distractors", ())
                )
                columns.keep(row["query_id"], row.get("ids", ()))
                if len(row) != 4 + ("distractors" in row) + ("ids" in row):
                    return None
        table = columns.table()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return table if table.moments.sound and table.distractors.sound else None
