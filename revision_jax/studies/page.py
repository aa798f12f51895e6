"""The page of a study: one HTML file with its tables and plots in it."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from revision_jax.files import write_text
from revision_jax.report import drawings, html
from revision_jax.studies import table

TEMPLATE = "study.html.j2"
FOLDERS = [Path(__file__).parent, Path(html.__file__).parent]  # this page's own, and the report's style


def write_page(path: Path, results: Mapping[str, Any], command: str, plots: Sequence[Path]) -> None:
    """Writes the page, whole or not at all.

    Args:
      command: makes it again.
      plots: PNG files; they are embedded.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDERS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    headings, rows = table.table_rows(results)
    by_seed = table.seed_rows(results)
    page = environment.get_template(TEMPLATE).render(
        results=results,
        command=command,
        source=table.source(results),
        headings=headings,
        rows=rows,
        notes=[table.INTERVALS, *table.notes(results)],
        figures=[(plot.stem, embedded(plot)) for plot in plots],
        panels=reliability_panels(results),
        seeds=by_seed,
        errors=table.errors(results),
    )
    write_text(path, page)


def embedded(file: Path) -> str:
    """A PNG file as an address."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def reliability_panels(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(row and seed, drawing) of the first whole seed of each row, where the study shows how well it is calibrated."""
    if not any(name.startswith("ECE") for name in results["columns"]):
        return []
    panels = []
    for row in results["rows"]:
        whole = [(seed, found) for seed, found in row["by_seed"].items() if "error" not in found]
        for seed, found in whole[:1]:
            bins = found["scores"].get("calibration", {}).get("0.3", {}).get("bins")
            if bins:
                panels.append((f"{row['name']}, seed {seed}", drawings.reliability(bins)))
    return panels
