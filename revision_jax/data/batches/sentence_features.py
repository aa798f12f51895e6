"""What an encoder makes of a run's sentences, encoded when they are asked for: a run of many does not wait at start."""

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

TOGETHER = 64  # sentences encoded in one call at least, where there are so many: the encoder pads to that
KEPT_BYTES = 1 << 30  # of features in memory; beyond, the oldest go and are encoded again

Encode = Callable[[Sequence[str]], Sequence[np.ndarray]]


class SentenceFeatures:
    """Sentence -> its features, encoded at the first use, together with others that will be needed; safe for threads.

    They are the same to the bit whichever sentences are encoded together, as the encoder's batch is fixed.

    Args:
      encode: sentences -> an array each.
      sentences: all that may be asked for; some are encoded ahead, in this order. When memory has held all of them,
        `encode` is forgotten, and with it the encoder.
    """

    def __init__(self, encode: Encode, sentences: Iterable[str]):
        self._encode: Encode | None = encode
        self._ahead = iter(sentences)
        self._kept: dict[str, np.ndarray] = {}
        self._bytes, self._dropped, self._all_seen, self._lock = 0, False, False, threading.Lock()

    def __getitem__(self, sentence: str) -> np.ndarray:
        """KeyError for a sentence that was not announced, where that is known."""
        found = self._kept.get(sentence)
        if found is None:  # another thread may encode it just now
            found = self.prepare([sentence]).get(sentence)
        return self._kept[sentence] if found is None else found

    def prepare(self, sentences: Iterable[str]) -> dict[str, np.ndarray]:
        """Encodes those of some sentences that are not kept, in one call; returns what was encoded."""
        with self._lock:
            wanted = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._kept]
            if not wanted:
                return {}
            if self._encode is None:
                raise KeyError(wanted[0])
            wanted += self._others(wanted)
            found = dict(zip(wanted, self._encode(wanted), strict=True))
            for sentence, features in found.items():
                self._keep(sentence, features)
            if self._all_seen and not self._dropped:
                self._encode = None
            return found

    def _others(self, wanted: Sequence[str]) -> list[str]:
        """Sentences that fill a call of the encoder up; none where memory is full."""
        others: dict[str, None] = {}
        while len(wanted) + len(others) < TOGETHER and not self._dropped:
            sentence = next(self._ahead, None)
            if sentence is None:
                self._all_seen = True
                break
            if sentence not in self._kept and sentence not in wanted:
                others[sentence] = None
        return list(others)

    def _keep(self, sentence: str, features: np.ndarray) -> None:
        self._kept[sentence] = features
        self._bytes += features.nbytes
        while self._bytes > KEPT_BYTES:
            self._dropped = True
            self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
