"""The preset `folder`: sizes follow from the train split, given fields win, too little data is told."""

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax import train
from revision_jax.config import ConfigError, resolve_path
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.builders.annotated import Imported
from revision_jax.data.video.extraction import identify
from revision_jax.runs import sizing


class Features:
    """Random features of videos that last so many seconds, at 2 frames a second."""

    def __init__(self, seconds):
        rng = np.random.default_rng(0)
        self.arrays = {f"film{n}": rng.normal(size=(2 * s, 128)).astype(np.float16) for n, s in enumerate(seconds)}

    def keys(self):
        return list(self.arrays)

    def read(self, key):
        return self.arrays[key]

    def identity(self):
        return {}


def prepare(folder, seconds, events=6, length_s=4.0):
    """`folder/train`: videos with `events` events each."""
    features = Features(seconds)
    rows = [
        Row(f"{video_id}/{n}", video_id, f"the {n}th door opens", ((6.0 * n, 6.0 * n + length_s),))
        for video_id in features.arrays
        for n in range(events)
    ]
    encoder = identify(resolve_path("asset:tiny/clip"), 2.0)
    Imported(folder / "train", "train", encoder, Annotations(rows), features, name="folder").prepare()
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("mine"), [200, 120, 90])


def chosen(spec, folder, **given):
    given = {"data.dir": str(folder)} | {key.replace("__", "."): value for key, value in given.items()}
    config = configs.load(spec, {key: value for key, value in given.items() if key.startswith(sizing.FIRST)})
    return {row.field: row.value for row in sizing.choose(config, given)}


SIZES = {
    "data.fps": 2.0,
    "hierarchy.window_s": 16.0,  # 4 x 4 s
    "hierarchy.num_frames": 32,
    "hierarchy.levels": (24, 8),  # 24 upper windows, 8 s apart, in 200 s
    "search.keep": (0.9, 0.59),
}


@pytest.mark.parametrize("spec", ["stage1.py", "stage1_sparse.py", "stage2.py"])
def test_the_stages_agree(mine, spec):
    found = chosen(f"configs/{spec}:folder", mine)
    assert found.items() >= SIZES.items()
    assert found.get("search.depth") == (3 if spec == "stage2.py" else None)
    rows = 18 if spec == "stage2.py" else 36  # 18 events; without stage 2, as many windows without
    batch = {"stage1.py": 16, "stage1_sparse.py": 32, "stage2.py": 8}[spec]
    target = {"stage1.py": 6400, "stage1_sparse.py": 19200, "stage2.py": 8000}[spec]
    assert (found["train.batch_size"], found["train.steps"]) == (batch, 0)
    assert found["train.epochs"] == min(-(-target // rows), sizing.MOST_EPOCHS)


def test_it_trains_says_what_it_chose_and_resumes(mine, tmp_path, capsys):
    fields = ["--config.train.steps=2", "--config.eval.after_training=false", "--config.train.log_every=1"]
    fields += ["--config.train.checkpoint_every=1", "--config.train.batch_size=2", "--config.hierarchy.window_s=10"]
    command = ["--config", "configs/stage1.py:folder", f"--config.data.dir={mine}", "--workdir", str(tmp_path), *fields]
    assert train.main(command) == 0
    config = configs.load_json(tmp_path / "config.json")
    assert (config.hierarchy.window_s, config.hierarchy.num_frames) == (10.0, 20)  # given; follows from it
    assert (config.train.steps, config.train.epochs, config.train.batch_size) == (2, 0, 2)
    shown = capsys.readouterr().out
    assert (
        "hierarchy.num_frames" in shown
        and "hierarchy.window_s" not in shown
        and "upper windows in the longest" in shown
    )
    assert max(map(len, shown.split("\n"))) <= 80
    assert train.main(command) == 0


def test_an_own_llm_has_the_papers_numbers(mine):
    base = resolve_path("asset:tiny/llm")
    found = chosen("configs/stage1.py:folder", mine, base__llm=str(base))
    assert (found["lora.rank"], found["model.dtype"], found["train.epochs"]) == (64, "bfloat16", 5)
    assert "lora.rank" not in chosen("configs/stage1.py:folder", mine)


def test_what_is_given_decides_the_rest(mine):
    found = chosen("configs/stage2.py:folder", mine, hierarchy__levels="(6,)", train__steps="5")
    assert (found["search.keep"], found["search.depth"]) == ((0.59,), 2)
    assert "train.epochs" not in found


def test_short_videos_borrow_windows_and_need_no_upper_level(tmp_path):
    folder = prepare(tmp_path, [30, 20, 25], events=3)
    found = chosen("configs/stage1.py:folder", folder)
    assert found["data.negatives"] == (("cross_video", 1.0),) and found["hierarchy.levels"] == (4,)
    with pytest.raises(ConfigError, match=r"longest video of train, 30 s, has 3 upper windows of 16 s.*dense run"):
        chosen("configs/stage2.py:folder", folder)


def test_too_little_is_told(tmp_path):
    folder = prepare(tmp_path / "few", [60], events=2)
    with pytest.raises(ConfigError, match=r"2 of the 2 events of train.*at least 8"):
        chosen("configs/stage1.py:folder", folder)
    with pytest.raises(ConfigError, match=r"data.dir is not given; expected --config.data.dir=DIR"):
        sizing.load("configs/stage1.py:folder")
    with pytest.raises(ValueError, match=r"no train under .*prepare folder"):
        sizing.load("configs/stage1.py:folder", {"data.dir": str(tmp_path / "none")})
