"""The package as others get it: built, installed away from the clone, it trains and answers from any folder.

Opt-in, for it takes a minute: pytest -m wheel -n 0 tests/test_wheel.py
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from tiny_base import SMALL

pytestmark = pytest.mark.wheel
REPO = Path(__file__).parents[1]
SCREEN = "A red circle moves left"


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output of a program that must succeed; nothing of the clone is on its path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | environment
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, REPO, cwd=folder)
    return folder


def tracked() -> set[str]:
    """Files of the package, by their names in a wheel; configs/ travels inside of it."""
    paths = [path for room in ("revision_jax", "configs") for path in (REPO / room).rglob("*") if path.is_file()]
    names = {str(path.relative_to(REPO)) for path in paths if path.parent.name != "__pycache__"}
    return {f"revision_jax/{name}" if name.startswith("configs/") else name for name in names}


def test_wheel_and_sdist_carry_every_file_of_the_package(built):
    wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert carried == tracked()
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "configs/stage1.py"} <= names


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """Python of a fresh virtual environment with the wheel; the libraries are those that run the tests."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / "bin/python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(python, "-m", "pip", "install", "-q", "--no-deps", next(built.glob("*.whl")), cwd=folder)
    (own / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # after what is installed here
    return python


def test_train_and_ground_run_away_from_the_clone(installed, tmp_path):
    where = run(installed, "-c", "import revision_jax; print(revision_jax.__file__)", cwd=tmp_path)
    assert not Path(where).is_relative_to(REPO)
    flags = [f"--config.{key}={value}" for key, value in SMALL.items() if not key.startswith(("lora", "train.steps"))]
    train = ["-m", "revision_jax.train", "--config", "configs/stage1.py", "--workdir", tmp_path / "run"]
    run(installed, *train, "--config.train.steps=2", *flags, cwd=tmp_path)
    assert (tmp_path / "run/eval/report.html").stat().st_size > 10_000
    other = tmp_path / "other"
    other.mkdir()
    video = next((tmp_path / "run").rglob("*.mp4"), None) or next(Path(os.environ["REVISION_JAX_CACHE"]).rglob("*.mp4"))
    ground = ["-m", "revision_jax.ground", video, SCREEN, "--workdir", tmp_path / "run", "--json"]
    assert SCREEN in json.dumps(json.loads(run(installed, *ground, cwd=other)))
