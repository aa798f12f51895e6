"""VidChapters-7M's annotations for moment retrieval: `chapters_vmr_{train,val,test}.json[l]`.

    {"qid", "query": [text, ...], "vid", "duration", "split", "relevant_windows": [[[start_s, end_s]], ...]}

Val and test have one query a row (`"relevant_windows": [[start_s, end_s]]`) and write a running number before `vid`.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, intervals, numbered, read_json, read_rows


def read_vidchapters(path: str | os.PathLike, video_ids: Collection[str]) -> Annotations:
    """Rows of a file.

    video_ids: the true ids, of `{train,val,test}.json` or of the features: what stands before one of them is the
    running number.
    """
    known = set(video_ids)

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        texts, windows = fields["query"], fields["relevant_windows"]
        if isinstance(texts, str):
            texts = [texts]
        if len(texts) == 1 and windows and not isinstance(windows[0][0], list | tuple):
            windows = [windows]  # one query a row: its windows are not in a list of their own
        if len(texts) != len(windows):
            raise ValueError(f"has {len(texts)} queries and windows of {len(windows)}; expected as many")
        video_id = true_id(str(fields["vid"]), known)
        # Rows of val and test are what the benchmark scores: its own video id stays beside the true one.
        ids = (("vid", fields["vid"]),) if len(texts) == 1 and fields["vid"] != video_id else ()
        for number, (text, own) in enumerate(zip(texts, windows, strict=True)):
            query_id = str(fields["qid"]) if len(texts) == 1 else f"{fields['qid']}/{number}"
            yield Row(query_id, video_id, text, intervals(own), duration_s=float(fields["duration"]), ids=ids)

    return Annotations(*read_rows(numbered(path, read_json(path)), parse))


def read_ids(path: str | os.PathLike) -> list[str]:
    """The video ids of `train.json`, `val.json` or `test.json`: a list, or an object with the ids as keys."""
    content = read_json(path)
    return [str(video_id) for video_id in content]


def true_id(vid: str, known: Collection[str]) -> str:
    """A video id without the running number before it; unchanged if it holds no known id.

    Raises:
      ValueError: it may be one of two known ids.
    """
    if vid in known:
        return vid
    digits = len(re.match(r"\d*", vid).group())
    # The number may be followed by a separator, and the id may itself begin with digits.
    rests = {vid[cut:].removeprefix(mark) for cut in range(1, digits + 1) for mark in ("", "_", "-")}
    found = sorted(rests & set(known)) if not isinstance(known, set) else sorted(rests & known)
    if len(found) > 1:
        raise ValueError(f"vid {vid!r} may be any of {', '.join(found)}; expected one of the true ids in it")
    return found[0] if found else vid
