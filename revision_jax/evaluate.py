"""Score a trained run on held-out videos: `python -m revision_jax.evaluate --help`."""

import argparse
import functools
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from revision_jax.evaluation.options import DEFAULT, Options, read_options
from revision_jax.evaluation.protocols import PROTOCOLS

USAGE = """
Three methods answer the same queries: the model on all windows (depth 1), the model in one pass over the whole
video (depth 0), and CLIP frame retrieval. With --upper, a run of configs/stage2.py whose model chooses among windows,
there are also depths 2 and 3, each top-down and bottom-up; the deepest one top-down with confidences rescaled by the
upper levels, as bottom-up does it, and fused with CLIP similarity; similarity alone may choose windows too
(retrieve_then_ground). A second table says what each level sent down. If that run chooses
among short videos (stage2.py:retrieval), its own videos are ranked: RUN/eval/retrieval.json of that run. What counts as
absent, the temperature of confidences and the variant of CLIP retrieval are chosen on the validation split.

Examples:
  python -m revision_jax.evaluate --workdir runs/stage1-tiny               the config's split (test)
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --split val
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --data data/mine/test      made by `prepare folder`
  python -m revision_jax.evaluate --workdir runs/stage1-tiny --upper runs/stage2-tiny
  python -m revision_jax.evaluate --workdir RUN --methods depth1,retrieve_then_ground --out eval-clip
  python -m revision_jax.evaluate --workdir RUN --protocol released --out eval-released
  python -m revision_jax.evaluate --workdir RUN --out eval-beam --search.beam 4 --search.confidence sequence_likelihood

RUN/eval holds metrics.json, predictions.jsonl, calibration.json (which `ground` uses), report.html and its
pictures; for another split than test with its name (metrics_val.json). The same command continues a stopped
evaluation, video by video. Another protocol or search goes to another folder, --out. Several hosts (processes of
jax.distributed, JAX_COORDINATOR_ADDRESS set) share the videos; the work folder must be one that all of them see.
"""
DENSE_STAGES, UPPER_STAGES = ("dense", "unified"), ("long", "unified")  # runs that answer about frames, about windows
FORMAT = 3  # of the predictions; another one starts the files anew
log = logging.getLogger(__name__)


def evaluate(
    config: ConfigDict, workdir: str | Path, grounder, *, directories: Mapping[str, Path], mesh, before=None,
    split: str = "", train_compilations: int | None = None, upper=None, options: Options = DEFAULT,
) -> dict:  # fmt: skip
    """Scores a grounder, prints the table, and writes everything into `workdir/eval`.

    Args:
      grounder: `models.Grounder`, trained.
      directories: split -> data set directory; holds `val` and the split scored.
      mesh: devices, of this host.
      before: the grounder as it was before training, for the same table; None keeps what `metrics.json` holds.
      split: default `eval.split`.
      train_compilations: how often the train step was compiled, to be kept with the search's counters.
      upper: `models.Grounder` of the upper levels; None searches without them.
      options: see `Options`.

    Returns:
      what `metrics.json` holds. Every score is a percentage. A repeated or resumed evaluation gives the same, but for
      what stands under `measured` and `compilations`.
    """
    # Slow to import, and `--help` must be quick.
    import jax

    from revision_jax.evaluation import hosts
    from revision_jax.evaluation import methods as m
    from revision_jax.evaluation.identity import digest, file_digest, parameters, trained_parameters
    from revision_jax.evaluation.peak import peak_memory
    from revision_jax.evaluation.predictions import plain, read_json, write_json
    from revision_jax.evaluation.scores import calibrate, compare, score
    from revision_jax.report.summary import read_losses, write_summary
    from revision_jax.report.table import print_table
    from revision_jax.runs.splits import make_extractor
    from revision_jax.search.answers.confidence import COSINE

    started = time.perf_counter()
    split, protocol = split or config.eval.split, PROTOCOLS[options.protocol]
    folder, suffix = Path(workdir) / options.out, "" if split == "test" else f"_{split}"
    width = grounder.visual_width
    splits = {name: m.Split.open(config, directories[name], name, width) for name in sorted({"val", split})}
    data = [file_digest(directories[name]) for name in splits]

    def answer(searcher, methods, models, tag):
        """Split -> method -> answers. A log belongs to some models, one data set and one way to search."""
        trained = [parameters(model) for model in models]
        identity = digest(FORMAT, searcher.settings.results(), config.hierarchy, config.prompt, data, trained)
        path = lambda name: folder / _named(f"predictions{tag}", name)
        return {name: m.answer(splits[name], methods, path(name), identity, _tell(name)) for name in splits}

    with jax.set_mesh(mesh):
        # ------------------------------------------------------------------------------------ search
        every_query = [query for split in splits.values() for query in split.all_queries]
        changes = {**protocol.search, **options.search}
        searcher = m.make_searcher(
            config, grounder, mesh, every_query, upper, changes=changes, memory_gib=options.memory_gib
        )
        extractor, settings = make_extractor(config, mesh), searcher.settings
        retrieval = m.choose_retrieval(splits["val"], extractor, top_k=settings.top_k, nms_iou=settings.nms_iou)
        shared = m.SharedVectors(searcher)
        asks = lambda searcher, names: {
            name: m.method(searcher, name, retrieval, extractor, config, shared) for name in names
        }
        names = m.chosen_methods(options.methods, searcher.max_depth)
        alone = [name for name in names if name == "clip" or m.known_methods(searcher.max_depth)[name][0] < 2]
        answers = answer(searcher, asks(searcher, alone), [grounder], "")
        deeper = [name for name in names if name not in alone]
        if deeper:
            more = answer(searcher, asks(searcher, deeper), [grounder, upper], "_upper")
            answers = {name: answers[name] | more[name] for name in answers}
        earlier, model_alone = None, [name for name in alone if name in ("depth1", "depth0")]
        if before is not None and model_alone:
            other = searcher.with_model(before)
            earlier = answer(other, asks(other, model_alone), [before], "_before")

    # ---------------------------------------------------------------------------------------- score
    queries, val_queries = splits[split].all_queries, splits["val"].all_queries
    kinds = {name: COSINE if name == "clip" else settings.confidence for name in names}
    calibration = calibrate(val_queries, answers["val"], kinds)
    if "clip" in calibration:
        calibration["clip"] |= {"variant": retrieval.variant, "length_s": retrieval.length_s}
    old = read_json(folder / f"metrics{suffix}.json") or {}
    if train_compilations is None:
        train_compilations = old.get("compilations", {}).get("train_step")
    search_compilations = {"programs": searcher.compile_count, "shapes": len(searcher.shapes)}
    if not searcher.compile_count:  # every answer was there: what was counted when they were found stands
        search_compilations = old.get("compilations", {}).get("search", search_compilations)
    steps, _ = read_losses(Path(workdir))
    metrics = {
        "split": split,
        "protocol": {"name": protocol.name, "says": protocol.says, "search": searcher.settings.results()},
        "train_steps": steps[-1] if steps else 0,
        "videos": len(splits[split].queries),
        "queries": len(queries),
        "present": sum(query.present for query in queries),
        "absent": sum(not query.present for query in queries),
        "levels": list(config.hierarchy.levels),
        "trained_parameters": trained_parameters([grounder, upper] if deeper else [grounder]),
        "methods": score(queries, answers[split], calibration, protocol),
        "compared": compare(queries, answers[split], protocol),
        "before": old.get("before"),
        "calibration": calibration,
        "compilations": {
            "train_step": train_compilations,
            "search": search_compilations,
            "encoder": extractor.compile_count,
        },
        "measured": {
            "seconds": time.perf_counter() - started,
            "device": {"kind": mesh.devices.flat[0].device_kind, "count": mesh.devices.size},
            "hosts": jax.process_count(),
            **peak_memory(mesh),
        },
    }
    if earlier is not None:
        before_kinds = dict.fromkeys(model_alone, settings.confidence)
        chosen = calibrate(val_queries, earlier["val"], before_kinds)
        metrics["before"] = score(queries, earlier[split], chosen, protocol)
    metrics = plain(metrics)

    # ---------------------------------------------------------------------------------------- tell
    if hosts.is_first():
        write_json(folder / "calibration.json", calibration)
        shown = "depth1" if "depth1" in names else names[0]
        predictions, threshold = answers[split][shown][0], calibration[shown]["threshold"]
        report = write_summary(folder, suffix, metrics, config, splits[split], predictions, threshold)
        write_json(folder / f"metrics{suffix}.json", metrics)  # the last: it says that all the rest is there
        print_table(metrics)
        log.info("report: %s", report)
    return metrics


def _tell(split: str):
    return lambda method, done, total: log.info("%s, %s: %d of %d videos", split, method, done, total)


def _named(stem: str, split: str) -> str:
    return f"{stem}.jsonl" if split == "test" else f"{stem}_{split}.jsonl"


# ------------------------------------------------------------------------------------------------- the verb
def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.evaluate", description=__doc__.partition(":")[0] + ".", epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--workdir", metavar="RUN", required=True, help="work folder of a training run")
    parser.add_argument("--upper", metavar="RUN", help="work folder of a run that chooses windows (default: none)")
    parser.add_argument("--split", choices=("val", "test"), default="", help="default: the config's eval.split")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="ours", help="default: ours")
    parser.add_argument("--methods", metavar="NAME,NAME", default="", help="default: all that the runs have")
    parser.add_argument("--out", metavar="NAME", default="eval", help="folder in RUN (default: %(default)s)")
    parser.add_argument("--memory_gib", type=float, default=0.0, help="what a device may use (default: all it has)")
    parser.add_argument("--data", metavar="DIR", help="another prepared split to score, of any domain")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    from revision_jax.train import user_errors

    try:
        evaluate_run(args.workdir, args.split, args.upper, read_options(args, rest), args.data)
    except (*user_errors(), MemoryError) as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate_run(
    workdir: str | Path, split: str = "", upper: str | Path | None = None, options: Options = DEFAULT,
    data: str | Path | None = None,
) -> dict:  # fmt: skip
    """Evaluates the newest checkpoint of a work folder, and of `upper` for the upper levels; see `evaluate`."""
    import jax

    from revision_jax import config as configs
    from revision_jax.parallel import multihost
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.runs.grounder import load_grounder, restore_grounder
    from revision_jax.runs.splits import other_split, prepare_data

    multihost.initialize()
    config = configs.load_json(Path(workdir) / "config.json")
    # Hosts search apart, each on its own devices.
    mesh = make_mesh(**config.mesh, devices=jax.local_devices())
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
    prepare = functools.partial(prepare_data, config, mesh, splits=tuple(sorted(splits)))
    directories = multihost.one_after_another("data", prepare)
    if data:
        split, path = other_split(config, data)
        directories = {**directories, split: path}
    before = load_grounder(config, mesh) if config.eval.before else None
    if config.stage != "dense" and upper is None:
        from revision_jax.evaluation.questions import evaluate_held_out

        return evaluate_held_out(
            config, workdir, grounder, directories=directories, mesh=mesh, before=before, steps=steps
        )
    return evaluate(
        config, workdir, grounder, directories=directories, mesh=mesh, before=before, split=split, upper=chooser,
        options=options,
    )  # fmt: skip


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
