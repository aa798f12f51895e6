"""Runs a study: row by row, seed by seed. A row that fails is told and passed over, and the others are kept."""

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revision_jax.files import alone_in, write_json, write_text
from revision_jax.parallel import multihost
from revision_jax.report.table import print_rows
from revision_jax.studies import chain as chains
from revision_jax.studies import joined as elsewhere
from revision_jax.studies import results as r
from revision_jax.studies import table
from revision_jax.studies.grid import Chain, Link, Study, chain_of
from revision_jax.studies.page import write_page
from revision_jax.studies.plots import write_plots
from revision_jax.training.preemption import Preempted

TABLE, PAGE, ERRORS = "table.md", "index.html", "errors"
LEAVES = (Preempted, multihost.HungHost)  # the same command is started again; nothing has failed
log = logging.getLogger(__name__)


class StageFailed(RuntimeError):
    """A stage that several rows share has failed before, in this call."""


def run(
    study: Study, root: Path, seeds: Sequence[int], command: str, *, files: Sequence[Path] = (), debug: bool = False
) -> int:
    """Does what is not done yet and writes everything into `root/STUDY`; the exit code: 1 if a row failed.

    Args:
      root: output folder of all studies.
      command: that goes on with this study.
      files: `results.json` of this study from elsewhere, whose rows are not done again.
      debug: the first error is raised.
    """
    folder, found, failed = root / study.name, {row.name: {} for row in study.rows}, {}
    todo = [chain_of(study, row, seed, root) for seed in seeds for row in study.rows]
    joined = elsewhere.load(files, todo)
    for (name, seed), outcome in joined.outcomes.items():
        found[name][seed] = outcome
    todo = [chain for chain in todo if (chain.row.name, chain.seed) not in joined.outcomes]
    here = sorted({chain.seed for chain in todo})
    with alone_in(folder):
        for number, chain in enumerate(todo, 1):
            log.info("%s: row %d of %d, %s, seed %d", study.name, number, len(todo), chain.row.name, chain.seed)
            try:
                found[chain.row.name][chain.seed] = _row(chain, failed, folder)
            except LEAVES:
                raise
            except Exception as error:
                if debug:
                    raise
                _tell(chain, error, folder)
                found[chain.row.name][chain.seed] = r.failure(error)
            write_json(folder / r.FILE, r.results(study, seeds, found, here, joined.sources))
        results = r.results(study, seeds, found, here, joined.sources)
        write(results, folder, command)
    return 1 if table.errors(results) else 0


def _row(chain: Chain, failed: dict[str, str], folder: Path) -> dict[str, Any]:
    """Trains and evaluates what is not there yet.

    Args:
      failed: key of a stage -> its error; such a stage is not tried again.
    """
    fresh = chains.scored(chain) is None
    trained = [_trained(link, failed) for link in chain.links]
    scored = chains.score(chain)
    if fresh:
        chains.forget_programs()
    return r.outcome(chain, trained, scored, folder)


def _trained(link: Link, failed: dict[str, str]) -> dict[str, Any]:
    if link.key in failed:
        raise StageFailed(f"stage {link.name} failed before: {failed[link.key]}")
    try:
        return chains.train(link)
    except Exception as error:
        failed[link.key] = str(error)
        raise


def _tell(chain: Chain, error: Exception, folder: Path) -> None:
    """Tells a failed row, and keeps where it failed."""
    log.error("row %s, seed %d failed: %s", chain.row.name, chain.seed, error)
    name = "".join(letter if letter.isalnum() else "-" for letter in chain.row.name)
    write_text(folder / ERRORS / f"{name}-seed{chain.seed}.txt", "".join(traceback.format_exception(error)))


def write(results: dict[str, Any], folder: Path, command: str) -> None:
    """The table, plots and page of a study; prints the table and what failed."""
    write_json(folder / r.FILE, results)
    write_text(folder / TABLE, table.markdown(results, command))
    write_page(folder / PAGE, results, command, write_plots(results, folder))
    headings, rows = table.table_rows(results)
    shown = [i for i, name in enumerate(headings) if name not in ("parameters", "steps", "seeds")]
    print_rows(
        f"{results['study']}: {results['question']}", " ".join([table.INTERVALS, *table.notes(results)]),
        [headings[i] for i in shown], [[row[i] for i in shown] for row in rows],
    )  # fmt: skip
    for name, error in table.errors(results):
        log.error("failed: %s: %s", name, error)
    log.info("study: %s", folder / PAGE)
