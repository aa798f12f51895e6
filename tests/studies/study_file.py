"""Studies that tests declare, by the helpers of configs/ablation.py."""

import runpy

from revision_jax import config as configs

DECLARED = runpy.run_path(str(configs.find_config("configs/ablation.py")))
row, stage, study = DECLARED["row"], DECLARED["stage"], DECLARED["study"]


def write_study(path, rows, columns=("R1@.3", "false alarms"), **given):
    """A study file with one study, `small`; its `--config`."""
    values = {"name": "small", "seconds": {}, **study("Does it run?", rows, columns, **given)}
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"PRESETS = {{'small': None}}\nVALUES = {values!r}\n"
        "def get_config(preset='small'):\n    return ConfigDict(VALUES)\n\n\n"
        "def defaults():\n    return get_config()\n"
    )
    return f"{path}:small"


def dense(**changes):
    """A chain of the dense stage alone; `train__steps=3` changes `train.steps`."""
    return [stage("dense", "stage1", "tiny", {key.replace("__", "."): value for key, value in changes.items()})]
