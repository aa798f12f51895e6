"""`prepare report`: one HTML page that shows what a data set holds, with its pictures embedded."""

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from revision_jax.data.annotations.queries import Query, load_queries
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.check import check_splits
from revision_jax.data.store.features import FeatureStore
from revision_jax.report.plots import STYLE
from revision_jax.report.table import clock

PAGE = "report.html"
SAMPLES = 6  # queries of a split whose similarity is shown
COLUMNS = 600  # of a strip: a video's frames are put together to so many


def write_page(directory: str | os.PathLike, splits: Mapping[str, Path], seed: int = 0) -> Path:
    """Writes `directory/report.html` about every split and returns its path; reads the features of the samples only."""
    gaps = check_splits(splits, deep=False)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = []
    for split, path in splits.items():
        store = FeatureStore(path)
        queries = load_queries(path / QUERIES, store.durations)
        strips = [_embedded(_strip(store, query), query) for query in sample(queries, SAMPLES, seed)]
        shown.append(
            {
                "name": split,
                "facts": facts(store, queries),
                "histograms": _encoded(_histograms(store, queries)),
                "strips": strips,
                "gaps": gaps[split],
            }
        )
    page = environment.get_template("page.html.j2").render(title=f"Data in {Path(directory).name}", splits=shown)
    path = Path(directory) / PAGE
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def facts(store: FeatureStore, queries: Sequence[Query]) -> dict[str, str]:
    """Heading -> text of the table above the pictures."""
    manifest = store.manifest
    lengths = [end - start for query in queries for start, end in query.moments]
    return {
        "videos": f"{len(store.video_ids)}, {clock(sum(store.durations.values()))} in all",
        "features": f"{manifest.width} wide at {manifest.fps:g} a second, {manifest.encoder}",
        "queries": f"{len(queries)}, {sum(not query.present for query in queries)} of them never true",
        "videos without a query": str(len(set(store.video_ids) - {query.video_id for query in queries})),
        "median event": f"{np.median(lengths):.1f} s" if lengths else "none",
    }


def sample(queries: Sequence[Query], count: int, seed: int) -> list[Query]:
    """Up to `count` random queries whose event happens, each of another video."""
    rng = np.random.default_rng(seed)
    chosen: dict[str, Query] = {}
    for number in rng.permutation(len(queries)):
        if queries[number].present:
            chosen.setdefault(queries[number].video_id, queries[number])
    return list(chosen.values())[:count]


def similarity(features: np.ndarray, fps: float, query: Query) -> np.ndarray:
    """Cosine `[N]` of every frame with the mean of the event's frames: high where the video looks like the event."""
    unit = features.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    start, end = query.moments[0]
    last = len(unit) - 1
    event = unit[min(int(start * fps), last) : min(int(np.ceil(end * fps)), last) + 1].mean(axis=0)
    return unit @ (event / max(np.linalg.norm(event), 1e-6))


def _histograms(store: FeatureStore, queries: Sequence[Query]) -> Figure:
    per_video = Counter({video_id: 0 for video_id in store.video_ids})
    per_video.update(query.video_id for query in queries)
    moments = [(start, end, store.durations[q.video_id]) for q in queries for start, end in q.moments]
    panels = {
        "video (minutes)": [duration / 60 for duration in store.durations.values()],
        "event (s)": [end - start for start, end, _ in moments],
        "queries a video": list(per_video.values()),
        "event's place (% of its video)": [50 * (start + end) / duration for start, end, duration in moments],
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.4), layout="constrained")
        axes = figure.subplots(1, len(panels))
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            axis.hist(values, bins=min(30, max(5, len(values) // 4)), color="#1f5f99")
            axis.set(xlabel=title)
        axes[0].set(ylabel="count")
    return figure


def _strip(store: FeatureStore, query: Query) -> Figure:
    """The similarity over the video, the event marked."""
    duration_s = store.durations[query.video_id]
    values = similarity(store.read_all(query.video_id), store.manifest.fps, query)
    columns = np.array_split(values, min(COLUMNS, len(values)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(11, 0.7), layout="constrained")
        axis = figure.subplots()
        picture = np.array([[part.max() for part in columns]])
        axis.imshow(
            picture, aspect="auto", extent=(0, duration_s, 0, 1), cmap="magma", vmin=float(values.min()), vmax=1
        )
        for start, end in query.moments:
            axis.axvspan(start, end, ymin=0, ymax=1, fill=False, edgecolor="#3fd07a", linewidth=1.2)
        axis.set_yticks([])
        ticks = np.linspace(0, duration_s, 5)
        axis.set_xticks(ticks, [clock(tick) for tick in ticks])
    return figure


def _embedded(figure: Figure, query: Query) -> tuple[str, str, str]:
    spans = ", ".join(f"{clock(start)} – {clock(end)}" for start, end in query.moments)
    return query.sentence, f"{query.video_id}, {spans}", _encoded(figure)


def _encoded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
