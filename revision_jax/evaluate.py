"""Score a trained run on held-out videos: `python -m revision_jax.evaluate --help`."""

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

USAGE = """
Three methods answer the same queries: the model on all windows (depth 1), the model in one pass over the whole
video (depth 0), and CLIP frame retrieval. With --upper, a run of configs/stage2.py whose model chooses among windows,
there are also depths 2 and 3, each top-down and bottom-up; a second table says what each level sent down. If that run
chooses among short videos (stage2.py:retrieval), its own videos are ranked: RUN/eval/retrieval.json of that run. The
confidence below which an event counts as absent, and the variant of CLIP retrieval, are chosen on the validation split.

Examples:
  python -m revision_jax.evaluate --workdir runs/stage1-tiny               the config's split (test)
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --split val
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --data data/mine/test      made by `prepare folder`
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --upper runs/stage2-tiny

RUN/eval holds metrics.json, predictions.jsonl, calibration.json (which `ground` uses), report.html and its
pictures; for another split than test with its name (metrics_val.json). The same command continues a stopped
evaluation, video by video.
"""
DENSE_STAGES, UPPER_STAGES = ("dense", "unified"), ("long", "unified")  # runs that answer about frames, about windows
FORMAT = 2  # of the predictions; another one starts the files anew
log = logging.getLogger(__name__)


def evaluate(
    config: ConfigDict, workdir: str | Path, grounder, *, directories: Mapping[str, Path], mesh, before=None,
    split: str = "", train_compilations: int | None = None, upper=None,
) -> dict:  # fmt: skip
    """Scores a grounder, prints the table, and writes everything into `workdir/eval`.

    Args:
      grounder: `models.Grounder`, trained.
      directories: split -> data set directory; holds `val` and the split scored.
      mesh: devices.
      before: the grounder as it was before training, for the same table; None keeps what `metrics.json` holds.
      split: default `eval.split`.
      train_compilations: how often the train step was compiled, to be kept with the search's counters.
      upper: `models.Grounder` of the upper levels; None searches without them.

    Returns:
      what `metrics.json` holds. Every score is a percentage.
    """
    # Slow to import, and `--help` must be quick.
    import jax

    from revision_jax.evaluation import methods as m
    from revision_jax.evaluation.predictions import PredictionLog, read_json, write_json
    from revision_jax.evaluation.scores import choose_thresholds, score
    from revision_jax.report.summary import read_losses, write_summary
    from revision_jax.report.table import print_table
    from revision_jax.training.datasets import make_extractor

    started = time.perf_counter()
    split = split or config.eval.split
    folder, suffix = Path(workdir) / "eval", "" if split == "test" else f"_{split}"
    width = grounder.visual_width
    splits = {name: m.Split.open(config, directories[name], name, width) for name in sorted({"val", split})}
    data = [_file_digest(directories[name]) for name in splits]

    def answer(methods, models, tag):
        """Split -> method -> answers. A log belongs to some models, one data set and one way to search."""
        parameters = [_parameters(model) for model in models]
        identity = _digest(FORMAT, config.search, config.hierarchy, config.prompt, data, parameters)
        logs = {name: PredictionLog(folder / _named(f"predictions{tag}", name), identity) for name in splits}
        return {name: m.answer(splits[name], methods, logs[name], _tell(name)) for name in splits}

    with jax.set_mesh(mesh):
        # ------------------------------------------------------------------------------------ search
        every_query = [query for split in splits.values() for query in split.all_queries]
        searcher = m.make_searcher(config, grounder, mesh, every_query, upper)
        extractor = make_extractor(config, mesh)
        retrieval = m.choose_retrieval(
            splits["val"], extractor, top_k=config.search.top_k, nms_iou=config.search.nms_iou
        )
        depths = lambda searcher: {f"depth{depth}": m.search_at(searcher, depth) for depth in (1, 0)}
        answers = answer(depths(searcher) | {"clip": m.retrieve(retrieval, extractor)}, [grounder], "")
        if upper is not None:
            deeper = answer(m.search_deeper(searcher, extractor, config), [grounder, upper], "_upper")
            answers = {name: answers[name] | deeper[name] for name in answers}
        earlier = None
        if before is not None:
            earlier = answer(depths(searcher.with_model(before)), [before], "_before")

    # ---------------------------------------------------------------------------------------- score
    queries, val_queries = splits[split].all_queries, splits["val"].all_queries
    calibration = choose_thresholds(val_queries, answers["val"])
    calibration["clip"] |= {"variant": retrieval.variant, "length_s": retrieval.length_s}
    write_json(folder / "calibration.json", calibration)
    old = read_json(folder / f"metrics{suffix}.json") or {}
    if train_compilations is None:
        train_compilations = old.get("compilations", {}).get("train_step")
    steps, _ = read_losses(Path(workdir))
    metrics = {
        "split": split,
        "train_steps": steps[-1] if steps else 0,
        "videos": len(splits[split].queries),
        "queries": len(queries),
        "present": sum(query.present for query in queries),
        "absent": sum(not query.present for query in queries),
        "levels": list(config.hierarchy.levels),
        "trained_parameters": _trained_parameters([grounder] + ([upper] if upper is not None else [])),
        "methods": score(queries, answers[split], calibration),
        "before": old.get("before"),
        "calibration": calibration,
        "compilations": {
            "train_step": train_compilations,
            "search": {"programs": searcher.compile_count, "shapes": len(searcher.shapes)},
            "encoder": extractor.compile_count,
        },
        "device": {"kind": mesh.devices.flat[0].device_kind, "count": mesh.devices.size},
        "seconds": time.perf_counter() - started,
    }
    if earlier is not None:
        metrics["before"] = score(queries, earlier[split], choose_thresholds(val_queries, earlier["val"]))

    # ---------------------------------------------------------------------------------------- tell
    predictions, threshold = answers[split]["depth1"][0], calibration["depth1"]["threshold"]
    report = write_summary(Path(workdir), suffix, metrics, config, splits[split], predictions, threshold)
    write_json(folder / f"metrics{suffix}.json", metrics)  # the last: it says that all the rest is there
    print_table(metrics)
    log.info("report: %s", report)
    return metrics


def _tell(split: str):
    return lambda method, done, total: log.info("%s, %s: %d of %d videos", split, method, done, total)


def _named(stem: str, split: str) -> str:
    return f"{stem}.jsonl" if split == "test" else f"{stem}_{split}.jsonl"


def _digest(*parts) -> str:
    plain = lambda value: value.to_dict() if isinstance(value, ConfigDict) else str(value)
    return hashlib.sha256(json.dumps(parts, default=plain, sort_keys=True).encode()).hexdigest()


def _file_digest(directory: Path) -> str:
    """Of a data set: its manifest, which holds the features' checksums, and its queries."""
    from revision_jax.data.builders.base import QUERIES
    from revision_jax.data.features import MANIFEST

    return hashlib.sha256(b"".join((Path(directory) / name).read_bytes() for name in (MANIFEST, QUERIES))).hexdigest()


def _trainable(grounder) -> dict:
    """Path -> parameters that a stage may have trained: LoRA and adapters; the base is fixed by the run."""
    import numpy as np
    from flax import nnx

    return {
        path: np.ascontiguousarray(parameter.get_value())
        for path, parameter in sorted(nnx.to_flat_state(nnx.state(grounder)), key=lambda item: str(item[0]))
        if "lora_a" in path or "lora_b" in path or path[0] in ("adapter", "sparse")
    }


def _parameters(grounder) -> str:
    """Content of the parameters that a stage may have trained."""
    total = hashlib.sha256()
    for path, array in _trainable(grounder).items():
        total.update(str(path).encode() + array.tobytes())
    return total.hexdigest()


def _trained_parameters(models) -> int:
    """How many parameters of LoRA and sparse adapter a search needs; what two of its models share counts once."""
    arrays = [item for model in models for item in _trainable(model).items() if item[0][0] != "adapter"]
    distinct = {(path, array.tobytes()): array.size for path, array in arrays}
    return sum(distinct.values())


# ------------------------------------------------------------------------------------------------- the verb
def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.evaluate", description=__doc__.partition(":")[0] + ".", epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--workdir", metavar="RUN", required=True, help="work folder of a training run")
    parser.add_argument("--upper", metavar="RUN", help="work folder of a run that chooses windows (default: none)")
    parser.add_argument("--split", choices=("val", "test"), default="", help="default: the config's eval.split")
    parser.add_argument("--data", metavar="DIR", help="another prepared split to score, of any domain")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    args = make_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    from revision_jax.train import user_errors

    try:
        evaluate_run(args.workdir, args.split, args.upper, args.data)
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate_run(
    workdir: str | Path, split: str = "", upper: str | Path | None = None, data: str | Path | None = None
) -> dict:
    """Evaluates the newest checkpoint of a work folder, and of `upper` for the upper levels; see `evaluate`."""
    from revision_jax import config as configs
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.training.datasets import other_split, prepare_data
    from revision_jax.training.parts import load_grounder, restore_grounder

    config = configs.load_json(Path(workdir) / "config.json")
    mesh = make_mesh(**config.mesh)
    grounder, steps = restore_grounder(config, workdir, mesh)
    chooser = None
    if upper is not None:
        upper_config = configs.load_json(Path(upper) / "config.json")
        check_same(config, upper_config, upper)
        chooser, _ = restore_grounder(upper_config, upper, mesh)
        if upper_config.data.groups == "videos":
            from revision_jax.evaluation.clips import evaluate_clips

            split = split or upper_config.eval.split
            directory = prepare_data(upper_config, mesh, splits=(split,))[split]
            return evaluate_clips(upper_config, upper, grounder, chooser, directory=directory, mesh=mesh, split=split)
    splits = {"val"} if data else {"val", split or config.eval.split}
    directories = prepare_data(config, mesh, splits=tuple(sorted(splits)))
    if data:
        split, path = other_split(config, data)
        directories = {**directories, split: path}
    before = load_grounder(config, mesh) if config.eval.before else None
    if config.stage != "dense" and upper is None:
        from revision_jax.evaluation.held_out import evaluate_held_out

        return evaluate_held_out(
            config, workdir, grounder, directories=directories, mesh=mesh, before=before, steps=steps
        )
    return evaluate(
        config, workdir, grounder, directories=directories, mesh=mesh, before=before, split=split, upper=chooser
    )


def check_same(config: ConfigDict, upper: ConfigDict, folder: str | Path) -> None:
    """Raises ConfigError if two runs cannot search together: their stages, windows or parts do not fit."""
    from revision_jax.config import ConfigError, flatten

    for name, stage, able in (("--workdir", config.stage, DENSE_STAGES), ("--upper", upper.stage, UPPER_STAGES)):
        if stage not in able:
            raise ConfigError(f"{name} is a run of stage {stage!r}; expected one of {', '.join(able)}.")
    ours, theirs = flatten(config), flatten(upper)
    shared = [key for key in ours if key.partition(".")[0] in ("base", "hierarchy", "prompt") or key == "data.fps"]
    differing = [f"{key}: {ours[key]!r} and {theirs[key]!r}" for key in shared if ours[key] != theirs[key]]
    if differing:
        listed = "\n".join(f"  {line}" for line in differing)
        raise ConfigError(f"this run and --upper {folder} differ; expected the same:\n{listed}")


if __name__ == "__main__":
    sys.exit(main())
