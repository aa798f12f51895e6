"""Annotations and queries of strangers, by class: each with the rows that are right, or the error."""

import json

import numpy as np

from revision_jax.data.annotations.queries import Query, save_queries
from tests.faults.cases import Case, Kind

ODD = (
    "a\u2028b",
    "caf\u00e9 \u4e2d\u6587",
    "a\u0085b",
    "\U0001f642 a\u000bb",
    "he said \"no\"; twice, 'yes'",
    "<b>x</b>",
    "\ufeffa",
)
ENCODINGS = {"plain": "utf-8", "mark": "utf-8-sig"}
FORMS = ("mad", "cone", "vidchapters", "folder", "msrvtt")
NOT_UTF8 = r"found .*expected UTF-8"


def some_rows(rng, count=4):
    """(query id, video id, sentence, moment, length)."""
    rows = []
    for number in range(count):
        start = round(float(rng.uniform(0, 50)), 3)
        sentence = f"{rng.choice(['a man', 'she', 'der Hund'])} {ODD[rng.integers(len(ODD))]} {number}"
        moment = [start, round(start + float(rng.uniform(0.5, 9)), 3)]
        rows.append((f"q{number}", f"v{rng.integers(3)}", sentence, moment, round(float(rng.uniform(60, 9000)), 2)))
    return rows


def written(form, rows):
    """(text, the rows that are right)."""
    values = [[q, v, s, [m], d] for q, v, s, m, d in rows]
    if form == "mad":
        content = {
            q: {"movie": v, "sentence": s, "timestamps": m, "ext_timestamps": [0, 9], "movie_duration": d}
            for q, v, s, m, d in rows
        }
        return json.dumps(content, ensure_ascii=False), values
    if form == "cone":
        lines = [
            {"query_id": q, "query": s, "duration": d, "clip_id": "none", "video_id": v, "timestamps": m}
            for q, v, s, m, d in rows
        ]
    elif form == "vidchapters":
        lines = [
            {"qid": q, "query": [s], "vid": v, "duration": d, "split": "train", "relevant_windows": [[m]]}
            for q, v, s, m, d in rows
        ]
    elif form == "folder":
        lines = [{"query_id": q, "video_id": v, "sentence": s, "moments": [m]} for q, v, s, m, d in rows]
        values = [[q, v, s, [m], None] for q, v, s, m, d in rows]
    else:
        mark = ","
        quoted = lambda text: '"' + text.replace('"', '""') + '"'
        own = {v: s for _, v, s, _, _ in rows}
        text = "key,video_id,sentence\n" + "".join(mark.join(["0", v, quoted(s)]) + "\n" for v, s in own.items())
        return text, [[v, v, " ".join(s.split()), None, None] for v, s in own.items()]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", values


def how(form):
    return {"form": form, "csv": True} if form == "msrvtt" else {"form": form}


def encodings(folder, rng):
    """With and without a mark, with either end of a line; characters at which some split lines."""
    for form in FORMS:
        for name, encoding in ENCODINGS.items():
            for end in ("\n", "\r\n"):
                text, values = written(form, some_rows(rng))
                path = folder / f"{form}-{name}-{len(end)}.{'csv' if form == 'msrvtt' else 'jsonl'}"
                path.write_bytes(text.replace("\n", end).encode(encoding))
                yield Case(path, {"rows": values, "gaps": 0}, "", how(form))


def foreign_encodings(folder, rng):
    for form in FORMS:
        for encoding in ("utf-16", "utf-16-le", "latin1"):
            text, _ = written(form, some_rows(rng))
            text = text.encode("latin1", "ignore").decode("latin1") + " \u00e9"
            path = folder / f"{form}-{encoding}.json"
            path.write_bytes(text.encode(encoding))
            yield Case(path, None, NOT_UTF8, how(form))


def marks(folder, rng):
    for mark in ",;\t":
        for start in ("", "\ufeff"):
            number = int(rng.integers(100))
            path = folder / f"{ord(mark)}{len(start)}.csv"
            path.write_text(f'{start}video_id{mark}sentence\nv1{mark}"a{mark} b {number}"\n', encoding="utf-8")
            value = [["v1", "v1", " ".join(f"a{mark} b {number}".split()), None, None]]
            yield Case(path, {"rows": value, "gaps": 0}, "", how("msrvtt"))
    for name, text in (("none", "video|sentence\nv|s\n"), ("more", "video_id,sentence\nv,a, b\n"), ("empty", "")):
        path = folder / f"{name}.csv"
        path.write_text(text)
        yield Case(path, None, "no column video_id|another number of columns", how("msrvtt"))


def no_json(folder, rng):
    """Deep, cut, garbled, or of another form."""
    for form in ("mad", "cone", "vidchapters", "folder"):
        text, _ = written(form, some_rows(rng))
        at = int(rng.integers(len(text) // 2, len(text) - 5))
        for name, content in {
            "deep": "[" * 100_000, "deep object": '{"a":' * 50_000 + "1" + "}" * 50_000, "cut": text[:at].rstrip("\n"),
            "garbled": text[:at] + "\x01}{" + text[at:], "words": "no JSON here", "empty": "",
        }.items():  # fmt: skip
            path = folder / f"{form} {name}.json"
            path.write_text(content, encoding="utf-8")
            value = {"rows": [], "gaps": 0} if name == "empty" else None
            yield Case(path, value, "neither JSON|nested too deep|expected MAD's object", how(form))


BAD = {
    "id": {"query_id": "a\nb"}, "nul": {"video_id": "a\0b"}, "half": {"video_id": "\ud800"}, "moments": {"moments": 7},
    "three": {"moments": [[1, 2, 3]]}, "large": {"moments": [[0, 10**400]]}, "words": {"moments": [["a", "b"]]},
    "unknown": {"clip": 1}, "object": {"moments": {"a": 1}}, "none": {"moments": None},
}  # fmt: skip


def bad_rows(folder, rng):
    """One row of four is none: it is a gap, the others stay."""
    for name, change in BAD.items():
        rows = some_rows(rng)
        text, values = written("folder", rows)
        lines, bad = text.split("\n")[:-1], int(rng.integers(4))
        lines[bad] = json.dumps(json.loads(lines[bad]) | change)
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        yield Case(path, {"rows": values[:bad] + values[bad + 1 :], "gaps": 1}, "", how("folder"))
    for name, value in (("list", [1, 2]), ("number", 5), ("text", "x"), ("null", None)):
        path = folder / f"{name}.jsonl"
        path.write_text(json.dumps(value) + "\n")
        gaps = len(value) if isinstance(value, list) else 1
        yield Case(path, {"rows": [], "gaps": gaps}, "", how("folder"))


LENGTHS = {
    "huge": 1e308,
    "below": -1.0,
    "zero": 0.0,
    "words": "long",
    "none": None,
    "infinite": float("inf"),
    "nan": float("nan"),
}


def lengths(folder, rng):
    for name, said in LENGTHS.items():
        path = folder / f"{name}.json"
        row = {"movie": "m", "sentence": "x", "timestamps": [1, 2], "movie_duration": said}
        path.write_text(json.dumps({"q": row, "r": row | {"movie_duration": 90.5}}))
        rows = [["q", "m", "x", [[1, 2]], 1e308]] if said == 1e308 else []
        yield Case(path, {"rows": [*rows, ["r", "m", "x", [[1, 2]], 90.5]], "gaps": 1 - len(rows)}, "", how("mad"))


PATHS = ("..", "../../x", "/etc/passwd", "a/../../b", "x" * 3000, "C:\\x", "~/x", "$HOME")


def ids(folder, rng):
    """Ids that look like paths are ids."""
    for number, name in enumerate(PATHS):
        path = folder / f"{number}.jsonl"
        rows = [(name, name, *row[2:]) for row in some_rows(rng, 1)]
        text, values = written("folder", rows)
        path.write_text(text, encoding="utf-8")
        yield Case(path, {"rows": values, "gaps": 0}, "", how("folder"))


# ------------------------------------------------------------------------------------------------- queries
def saved(folder, rng):
    """What `prepare` writes is read again."""
    for number in range(8):
        rows = some_rows(rng, 5)
        path = folder / f"{number}.jsonl"
        save_queries(path, [Query(q, v, s, (tuple(m),), ((0.0, 1.0),)) for q, v, s, m, _ in rows])
        yield Case(path, [[q, v, s, [m], [[0.0, 1.0]]] for q, v, s, m, _ in rows])


def damaged(folder, rng):
    good = [{"query_id": f"q{i}", "video_id": "v", "sentence": "a", "moments": [[1, 2]]} for i in range(3)]
    for name, change in {
        "twice": {"query_id": "q0"}, "empty": {"sentence": " "}, "backwards": {"moments": [[5, 2]]},
        "infinite": {"moments": [[0, float("inf")]]}, "below": {"moments": [[-1, 2]]}, "number": {"sentence": 5},
        "unknown": {"extra": 1}, "half": {"sentence": "a \ud800"}, "pair": {"moments": [[1]]},
        "none": {"moments": [None]},
    }.items():  # fmt: skip
        path = folder / f"{name}.jsonl"
        rows = [*good[:2], good[2] | change]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield Case(path, None, r"jsonl:3: |occurs twice")
    for name, text in (("cut", json.dumps(good[0])[:-9]), ("list", "[1]"), ("deep", "[" * 100_000), ("word", "x")):
        path = folder / f"{name}.jsonl"
        path.write_text(json.dumps(good[1]) + "\n" + text)
        yield Case(path, None, r"jsonl:2: ")
    for encoding in ("utf-16", "latin1"):
        path = folder / f"{encoding}.jsonl"
        path.write_bytes(json.dumps(good[0] | {"sentence": "caf\u00e9"}, ensure_ascii=False).encode(encoding))
        yield Case(path, None, NOT_UTF8)


def sentence_files(folder, rng):
    for number in range(8):
        lines = [row[2] for row in some_rows(rng, 5)]
        path = folder / f"{number}.txt"
        mark, end = rng.choice(["", "\ufeff"]), str(rng.choice(["\n", "\r\n", "\n\n"]))
        lines = [line.replace("\ufeff", "") for line in lines]
        path.write_bytes((mark + end.join(lines) + end).encode())
        yield Case(path, [line.strip() for line in lines])
    bad = {"latin1": b"caf\xe9\n", "utf16": "a film\n".encode("utf-16"), "binary": rng.bytes(4000), "nul": b"a\0b\n"}
    files = [(name, raw, NOT_UTF8) for name, raw in bad.items()]
    files += [("empty", b"", "no sentence given"), ("blank", b" \n\n\t\n", "no sentence given")]
    for name, raw, error in (*files, ("marker", b"<video></s>\n", "is empty"), ("long", b"word " * 200_000, "")):
        path = folder / f"{name}.txt"
        path.write_bytes(raw)
        yield Case(path, None if error else [raw.decode().strip()], error)


ANNOTATIONS = [
    Kind("marks and ends of lines, odd characters", 20, encodings),
    Kind("another encoding", 15, foreign_encodings),
    Kind("tables of commas, semicolons, tabs", 9, marks),
    Kind("deep, cut, garbled JSON", 24, no_json),
    Kind("rows that are none", 14, bad_rows),
    Kind("absurd lengths", 7, lengths),
    Kind("ids that look like paths", 8, ids),
]
QUERIES = [Kind("written by prepare", 8, saved), Kind("damaged or foreign lines", 16, damaged)]
SENTENCES = [Kind("files of sentences", 16, sentence_files)]


def same_seed(kinds, folder, rng: np.random.Generator):
    """Kind -> its cases, each kind in a folder of its own."""
    made = {}
    for number, kind in enumerate(kinds):
        place = folder / str(number)
        place.mkdir(parents=True)
        made[kind.name] = list(kind.make(place, rng))[: kind.count]
        assert len(made[kind.name]) == kind.count, (kind.name, len(made[kind.name]))
    return made
