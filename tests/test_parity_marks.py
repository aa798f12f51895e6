"""Nothing but parity needs PyTorch: files that import it are marked, and so are skipped, not broken, without it."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
MARK = "pytest.mark.parity"


def imported(tree: ast.Module) -> set[str]:
    """Names that a file imports at its top, but for the package's own."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("revision_jax"):
            names |= {node.module.split(".")[0], node.module.split(".")[-1], *(alias.name for alias in node.names)}
    return names


def test_files_that_import_pytorch_are_marked():
    trees = {path: ast.parse(path.read_text()) for path in TESTS.rglob("*.py")}
    tests = {path for path in trees if path.name.startswith("test_")}
    needing, names, before = set(), {"torch", "peft"}, None
    while needing != before:  # helpers that import it, and what imports those
        before = set(needing)
        needing = {path for path, tree in trees.items() if imported(tree) & names}
        names |= {path.stem for path in needing - tests}
    marked = {path for path in tests if f"pytestmark = {MARK}" in path.read_text() or f", {MARK}]" in path.read_text()}
    assert needing & tests == marked and len(marked) > 10
