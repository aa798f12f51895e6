"""The model card (README.md) of an exported run: what it is, how it scored, what was checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from ml_collections import ConfigDict

from revision_jax.quoting import escaped
from revision_jax.report.table import QUESTION_NOTE, hit_note, question_rows, retrieval_rows, table_rows

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def model_card(
    config: ConfigDict, manifest: Mapping[str, Any], metrics: Mapping[str, Any] | None, adapters: Sequence[str]
) -> str:
    """Markdown.

    Args:
      manifest: of the export.
      metrics: the run's metrics.json, None where it was not evaluated.
      adapters: names of the adapters' files.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, finalize=_plain)
    template = environment.from_string((Path(__file__).parent / "model_card.md.j2").read_text())
    return template.render(config=config, manifest=manifest, tables=score_tables(metrics), adapters=adapters) + "\n"


def _plain(value: Any) -> Any:
    """Text as Markdown shows it: no tags, no line ends."""
    return escaped(value).replace("<", "&lt;") if isinstance(value, str) else value


def score_tables(metrics: Mapping[str, Any] | None) -> list[Table]:
    """(title, headings, rows) of a metrics.json: of what its stage was scored by."""
    if metrics is None:
        return []
    tables = [
        (f"Split {metrics['split']}; percent, {hit_note(metrics)}.", *table_rows(metrics)),
        (f"Split {metrics['split']}. {QUESTION_NOTE}", *question_rows(metrics)),
        ("Retrieval among short videos; percent, but for the rank.", *retrieval_rows(metrics)),
    ]
    return [table for table in tables if table[2]]
