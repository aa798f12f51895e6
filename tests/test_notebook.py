"""docs/quickstart.ipynb: whole, small, with its outputs; `pytest -n 0 -m notebook` executes it anew."""

import ast
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPO = Path(__file__).parents[1]
NOTEBOOK = REPO / "docs/quickstart.ipynb"
MAGIC = re.compile(r"^\s*%.*$", re.MULTILINE)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def check(notebook) -> None:
    """Every cell ran, the moment that was found is right, the video is shown and the levels are drawn."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    text = "".join(output.get("text", "") for output in outputs)
    (overlap,) = re.findall(r"of 3600 s, IoU (\d\.\d\d)", text)
    assert float(overlap) > 0.5 and "happens never" in text
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert "image/png" in shown
    assert any("<video" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_its_outputs_are_there_and_small():
    check(nbformat.read(NOTEBOOK, as_version=4))
    text = NOTEBOOK.read_text()
    assert len(text) < 400_000
    assert not re.search(r"/(tmp|root|home|work)/", text)  # nothing of the machine that ran it


def test_what_it_imports_is_there():
    """A name that moved is found without running the notebook."""
    cells = [
        MAGIC.sub(lambda found: found[0].split("%")[0] + "pass", cell.source)
        for cell in code(nbformat.read(NOTEBOOK, 4))
    ]
    trees = [node for source in cells for node in ast.walk(ast.parse(source))]
    imports = [node for node in trees if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) > 5
    exec("\n".join(map(ast.unparse, imports)), {})


@pytest.mark.notebook
def test_it_runs_from_install_to_a_found_moment(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    own = {"REVISION_JAX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(REPO)}
    resources = {"metadata": {"path": str(tmp_path)}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=resources).execute()
    check(notebook)
    for cell in code(notebook):  # libraries' warnings name folders of this machine
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    if target := os.environ.get("NOTEBOOK_OUT"):  # to commit the outputs
        nbformat.write(notebook, target)
