"""The walls of the house: who may import whom, how large files and functions may be. The map: docs/architecture.md."""

import ast
import functools
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import revision_jax

PACKAGE = Path(revision_jax.__file__).parent
VERBS = {"train", "evaluate", "ground", "prepare", "convert", "export", "compile", "plan", "demo", "ablate"}
# From the top floor down: a room imports only rooms of lower floors. Files beside the rooms are rooms of their own.
FLOORS = (
    VERBS,
    {"benchmarks", "planning", "studies"},
    {"verb", "preparation", "pretrain", "ahead", "page"},
    {"evaluation"},
    {"runs"},
    {"training"},
    {"checkpoint"},
    {"config", "checkpoint_record"},
    {"config_rules"},
    {"search"},
    {"data"},
    {"interop", "report"},
    {"metrics", "models"},
    {"parallel", "prompts", "hierarchy", "logs", "tokenizer_files", "cache"},
    {"rules", "files", "text", "quoting", "units", "lazy", "interrupts", "checksums", "fingerprints", "known_keys"},
    {"disk"},
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class House:
    """The parsed files of a package."""

    def __init__(self, package: Path):
        self.package = package
        self.texts = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
        self.trees = {path: ast.parse(text) for path, text in self.texts.items()}
        self.modules = {self._name(path): path for path in self.texts}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.package.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def tell(self, path: Path, what: str = "") -> str:
        return f"{path.relative_to(self.package)}{what and ':'}{what}"

    def room(self, path: Path) -> str:
        parts = path.relative_to(self.package).with_suffix("").parts
        return parts[0]

    @functools.cached_property
    def imports(self) -> dict[Path, set[Path]]:
        """Own modules that each file imports, at once or lazily; not those for type checkers alone."""
        found = {}
        for path, tree in self.trees.items():
            names = set(_imported(tree, self.package.name))
            found[path] = {self.modules[name] for name in names if name in self.modules} - {path}
        return found

    def functions(self) -> Iterator[tuple[Path, ast.FunctionDef]]:
        for path, tree in self.trees.items():
            yield from ((path, node) for node in ast.walk(tree) if isinstance(node, FUNCTIONS))

    def files(self) -> dict[str, int]:
        """File -> lines; packages' `__init__` files are left out."""
        lengths = {path: text.count("\n") for path, text in self.texts.items() if path.name != "__init__.py"}
        return {self.tell(path): length for path, length in lengths.items()}


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import, line {node.lineno}"
            # `from package import name` imports a module or a name of the package itself.
            yield from ([node.module] if node.module != package else [])
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy.module":
            yield node.args[0].value
        yield from _imported(node, package)


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [one for one in given if one.arg not in ("self", "cls")]


# ------------------------------------------------------------------------------------------------- what is measured
def circles(house: House) -> list[str]:
    """Files that import themselves through others."""

    def reach(start: Path) -> set[Path]:
        seen, todo = set(), [start]
        while todo:
            new = house.imports[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    return [house.tell(path) for path in house.imports if path in reach(path)]


def upward(house: House, floors: tuple[set[str], ...] = FLOORS) -> list[str]:
    """Imports of a room that is not on a lower floor, and rooms that are on none."""
    floor = {room: number for number, rooms in enumerate(floors) for room in rooms}
    found = []
    for path, imported in house.imports.items():
        room = house.room(path)
        if room == "__init__":  # of the package itself: `load_run`
            continue
        if room not in floor:
            found.append(f"{house.tell(path)} is on no floor")
            continue
        for other in imported:
            above = house.room(other) != room and floor.get(house.room(other), -1) <= floor[room]
            if above and other != house.package / "__init__.py":
                found.append(f"{house.tell(path)} -> {house.tell(other)}")
    return found


def verb_imports(house: House) -> list[str]:
    verbs = {house.package / f"{name}.py" for name in VERBS}
    return [f"{house.tell(one)} -> {house.tell(other)}" for one in verbs for other in house.imports[one] & verbs]


def stage_comparisons(house: House) -> list[str]:
    """Files outside runs/ that ask what a config's stage is."""
    asks = re.compile(r"\.stage\s*(==|!=|in\b|not in\b)|\[[\w.]+\.stage\]")
    return [house.tell(p) for p, text in house.texts.items() if asks.search(text) and house.room(p) != "runs"]


def late_imports(house: House) -> list[str]:
    """Functions that import own modules."""
    own = lambda node: isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == house.package.name
    return [house.tell(path, node.name) for path, node in house.functions() if any(map(own, ast.walk(node)))]


def lazy_modules(house: House) -> list[str]:
    """Rooms that name own modules lazily: that is for verbs' quick help alone."""
    own = f'lazy.module("{house.package.name}.'
    found = [house.tell(path) for path, text in house.texts.items() if own in text.replace("'", '"')]
    return [name for name in found if "/" in name]


def long_functions(house: House) -> list[str]:
    length = lambda node: node.end_lineno - node.lineno + 1
    return [house.tell(path, node.name) for path, node in house.functions() if length(node) > 60]


def many_parameters(house: House) -> list[str]:
    return [house.tell(path, node.name) for path, node in house.functions() if len(parameters(node)) > 6]


def bare_parameters(house: House) -> tuple[list[str], int]:
    """Parameters of public functions without an annotation, and how many parameters these have."""
    public = [(path, node) for path, node in house.functions() if not node.name.startswith("_")]
    every = [(path, node, one) for path, node in public for one in parameters(node)]
    return [house.tell(p, f"{n.name}({one.arg})") for p, n, one in every if one.annotation is None], len(every)


# ------------------------------------------------------------------------------------------------- the house
@pytest.fixture(scope="module")
def house() -> House:
    return House(PACKAGE)


@pytest.mark.parametrize(
    "measure",
    [circles, upward, verb_imports, stage_comparisons, lazy_modules, long_functions],
    ids=lambda m: m.__name__,
)
def test_there_are_none(house: House, measure: Callable[[House], list[str]]):
    assert measure(house) == []


def test_own_modules_are_imported_at_the_top_of_files(house):
    assert late_imports(house) == ["__init__.py:__getattr__"]  # `import revision_jax` does not wait for JAX


def test_files_are_short(house):
    lengths = house.files()
    assert statistics.median(lengths.values()) <= 150
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    assert {name: lengths[f"{name}.py"] for name in VERBS if lengths[f"{name}.py"] > 120} == {}


def test_few_functions_have_many_parameters(house):
    assert len(many_parameters(house)) <= 12, many_parameters(house)


def test_public_functions_say_what_they_take(house):
    bare, every = bare_parameters(house)
    assert len(bare) <= 0.03 * every, bare


def test_faults_are_found(tmp_path):
    """In a house that has one of each."""
    files = {
        "rooms/__init__.py": "",
        "rooms/top.py": "from rooms.low import inner\nfrom rooms import other\n",
        "rooms/other.py": "from rooms import top\nif config.stage == 'long': pass\n",
        "rooms/low/__init__.py": "",
        "rooms/low/inner.py": "from rooms import lazy\nx = lazy.module('rooms.top')\n"
        "def f(a, b, c, d, e, g, h):\n    from rooms import other\n" + "    x = 1\n" * 60,
        "rooms/stranger.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    bad = House(tmp_path / "rooms")
    assert circles(bad) == ["low/inner.py", "other.py", "top.py"]
    found = upward(bad, ({"top"}, {"other"}, {"low"}))
    assert "other.py -> top.py" in found and "low/inner.py -> top.py" in found and "stranger.py is on no floor" in found
    assert "top.py -> other.py" not in found
    assert stage_comparisons(bad) == ["other.py"]
    assert late_imports(bad) == long_functions(bad) == many_parameters(bad) == ["low/inner.py:f"]
    assert lazy_modules(bad) == ["low/inner.py"]
    assert len(bare_parameters(bad)[0]) == bare_parameters(bad)[1] == 7
