"""Studies: small grids of trainings and evaluations, each answers one question.

    python -m revision_jax.ablate --list                                     # what there is, and what each takes
    python -m revision_jax.ablate --config configs/ablation.py:modules       # three seeds; resumable
    python -m revision_jax.ablate --config configs/ablation.py:modules --dry-run
    python -m revision_jax.ablate --config configs/ablation.py:modules_mad --config.data.dir=DIR \\
        --config.base.llm=DIR --config.base.encoder=DIR --config.base.projector=mm_projector.bin

| study       | asks                                                       | at full size                |
|-------------|------------------------------------------------------------|-----------------------------|
| hierarchies | how many levels help, on videos of 1 and of 10 hours       | _mad, _vidchapters (0 to 3) |
| features    | what frames and windows are shown to the LLM as            | _mad, _vidchapters          |
| training    | what contrastive windows and the sparse stage add          | _mad, _vidchapters          |
| modules     | what each module adds, one after the other (Table 2)       | _mad, _vidchapters          |
| variants    | default, U, I and U+I (Table 3)                            | _mad, _vidchapters          |
| negatives   | which contrastive windows teach most                       | _mad, _vidchapters          |
| domains     | how recall and confidence stand a change of the world      | the embedded world only     |
| calibration | which confidence can be believed                           | _mad, _vidchapters          |
| ranking     | what should rank the answers                               | _mad, _vidchapters          |
| length      | what longer videos cost, and whether recall stands them    | the embedded world only     |
| cost        | what a number of passes costs                              | _mad, _vidchapters          |
| retrieval   | whether levels help to choose among short videos           | _msrvtt                     |

A study is a name -> rows. A row has a chain of stages, each a config file with fields of its own, and says how the last
stage's run is evaluated; stages that rows, studies or earlier calls share are trained once. `--config.FIELD=VALUE` sets
a field of every stage. On the embedded world each study takes minutes to hours on 2 cores: `--list` computes them from
`SECONDS`, which was measured there. At full size nothing is computed: `python -m revision_jax.plan` does.

What the config cannot say, so that no row tells it:

- levels of `()`: hierarchies 0 and 1 are searches of a dense run (one pass; all windows), which has no upper level;
- an answer in seconds from sparse tokens alone: the last level of a search sees frames. `features` has the layout whose
  frames go through the sparse adapter instead, and `search recall` says what the upper levels alone choose;
- a run of stage 2 without a sparse stage: `training` has one of a single step at a rate of 1e-9, which leaves the
  adapter as it was drawn, and stage 2 trains it;
- a ranking by similarity alone, as CONE's: `search.ranking=cosine` is the released program's, which weighs entropy too;
- memory of one search: the rows of a study share a process. `python -m revision_jax.benchmarks.length` tells it;
- another LLM: SmolLM2 is not shipped (docs/recipes.md has its route).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

# Seconds on 2 cores of an AMD EPYC, from the minutes of `bash launch/local.sh` in docs/benchmarks.md: of a step of each
# stage (of the long stage with groups of 48 and 16), of a query an hour of video by what it asks, of a start.
SECONDS = {
    "step": {"align": 0.4, "dense": 0.41, "sparse": 0.26, "long": 0.26, "unified": 0.26},
    "query": {"one pass": 0.01, "dense": 0.08, "upper": 0.10},
    "start": 25.0,
}
# Name of a world -> its presets of stage 1 and 2 (variant U's own), group sizes by number of levels, coarse first, and
# the share of the windows that each level sends down.
WORLDS = {
    "tiny": {
        "preset": "tiny",
        "unified": ("unified", {}),
        "sees_query": "unified_clip_adapter",
        "levels": {2: (16,), 3: (48, 16), 4: (80, 48, 16), 5: (112, 80, 48, 16)},
    },
}
WORLDS |= {
    name: {
        "preset": name,
        "unified": (name, {"stage": "unified", "train.batch_size": 128, "train.group_batch_size": 8}),
        "sees_query": f"{name}_clip_adapter",
        "levels": {2: (33,), 3: (100, 33)},
    }
    for name in ("mad", "vidchapters")
}
# As the paper searches and ranks; the embedded presets have what docs/benchmarks.md found.
ENTROPY_ALONE = {"search.similarity": 0.0, "search.alone": 1.0, "search.verify": 0.0}
PUBLISHED = {"search.policy": "top_down", "search.keep": (0.9, 0.59), "search.least": 1, **ENTROPY_ALONE}
KEEP = {2: (0.59,), 3: (0.9, 0.59), 4: (0.95, 0.9, 0.59), 5: (0.97, 0.95, 0.9, 0.59)}
LONG_VIDEO = {"data.video_s": 36000.0, "data.test_videos": 1}
# As in the paper. With more, a window's other questions are also about events that it does not show, and contrast.
ONE_QUESTION = {"data.questions_per_window": 1}
UNCONTRASTED = {"data.neg_factor": 0.0, **ONE_QUESTION}
SOME = 120  # queries that are asked of videos of other lengths


# ------------------------------------------------------------------------------------------------- pieces
def stage(name: str, file: str, preset: str, changes: Mapping[str, Any] = {}, mined: str = "") -> dict:
    """A stage of a chain.

    Args:
      name: how rows and tables call it; a later stage of its name takes its place as a predecessor.
      changes: dotted key -> value, over the preset's.
      mined: name of an earlier stage whose wrong answers about the train split become `data.mined`.
    """
    return {"name": name, "config": f"configs/{file}.py:{preset}", "set": tuple(changes.items()), "mined": mined}


def row(name: str, stages: Sequence[dict], method: str, **given: Any) -> dict:
    """A row of a study.

    Args:
      method: of the evaluation, whose scores are shown.
      given: series and point (of a plot; default: no series, the row's name); methods (that are asked; default: the one
        shown); search (dotted key -> value); data (the same, of Shapes' test split, which is made); queries (at most so
        many; 0 = all); paper (what the paper has there).
    """
    known = {"series": "", "point": name, "methods": (method,), "search": {}, "data": {}, "queries": 0, "paper": ""}
    strangers = given.keys() - known.keys()
    if strangers:
        raise TypeError(f"row {name!r} has {', '.join(sorted(strangers))}; expected some of {', '.join(known)}")
    values = known | given
    pairs = {field: tuple(values[field].items()) for field in ("search", "data")}
    return {"name": name, "stages": tuple(stages), "method": method, **values, **pairs}


def study(question: str, rows: Sequence[dict], columns: Sequence[str], **given: Any) -> dict:
    """A study.

    Args:
      columns: of its table, names of `revision_jax.studies.columns.COLUMNS`.
      given: plotted (columns; default: the first); line (whether the points of a series are joined); paper (what the
        rows' `paper` is).
    """
    values = {"plotted": (columns[0],), "line": False, "paper": ""} | given
    return {"question": question, "rows": tuple(rows), "columns": tuple(columns), **values}


def chain(
    world: Mapping, dense: Mapping[str, Any] = {}, sparse: Mapping[str, Any] = {}, long: Mapping[str, Any] = {}
) -> list[dict]:
    """Dense, sparse, long, each with its changes."""
    files = {
        "dense": ("stage1", ENTROPY_ALONE | dict(dense)),
        "sparse": ("stage1_sparse", sparse),
        "long": ("stage2", PUBLISHED | dict(long)),
    }
    return [stage(name, file, world["preset"], changes) for name, (file, changes) in files.items()]


def unified(world: Mapping) -> list[dict]:
    """Dense, sparse, then variant U."""
    preset, changes = world["unified"]
    return [*chain(world)[:2], stage("unified", "stage2", preset, PUBLISHED | changes)]


# ------------------------------------------------------------------------------------------------- studies
def hierarchies(world: Mapping) -> dict:
    dense, rows, paper = chain(world)[:1], [], ("0", "8.4", "11.9", "15.0")
    lengths: dict[str, dict] = {"": {}}
    if world["preset"] == "tiny":
        lengths = {"1 hour": {}, "10 hours": {"data": LONG_VIDEO, "queries": SOME}}
    for series, given in lengths.items():
        for depth in (0, 1, *world["levels"]):
            stages = dense
            if depth > 1:
                levels = {"hierarchy.levels": world["levels"][depth], "search.keep": KEEP[depth]}
                stages = chain(world, long=levels | {"search.depth": depth})
            told = {"paper": paper[depth]} if depth < len(paper) and series != "10 hours" else {}
            name = f"{depth}, {series}" if series else str(depth)
            rows.append(row(name, stages, f"depth{depth}", series=series, point=str(depth), **given, **told))
    return study(
        "How many levels help?", rows, ("R1@.3", "R1@.1", "search recall", "frames", "LLM tokens/query"),
        line=True, paper="MAD, R1@.1",
    )  # fmt: skip


def features(world: Mapping) -> dict:
    crossed = [*chain(world)[:2], stage("unified", "stage2", world["sees_query"], PUBLISHED)]
    return study(
        "As what are frames and windows shown to the LLM?",
        [
            row("dense only: frames (depth 1)", chain(world)[:1], "depth1"),
            row("sparse only: frames and windows through the sparse adapter", crossed, "depth3"),
            row("both", chain(world), "depth3"),
        ],
        ("R1@.3", "R1@.1", "search recall", "false alarms", "frames", "LLM tokens/query"),
    )


def training(world: Mapping) -> dict:
    # The adapter as it was drawn; stage 2 trains it beside its LoRA.
    drawn = {"train.steps": 1, "train.epochs": 0, "train.learning_rate": 1e-9}
    trains = (("llm/.*/lora_[ab]", 1.0), ("sparse/.*", 1.0), ("llm/.*", "frozen"), ("adapter/.*", "frozen"))
    return study(
        "What do contrastive windows and the sparse stage add?",
        [
            row("no contrastive windows, one question a window", chain(world, UNCONTRASTED), "depth3"),
            row("contrastive windows, one question a window", chain(world, ONE_QUESTION), "depth3"),
            row("without the sparse stage", chain(world, sparse=drawn, long={"trainable": trains}), "depth3"),
            row("all", chain(world), "depth3"),
        ],
        ("R1@.3", "R1@.1", "search recall", "false alarms", "AUROC"),
        plotted=("R1@.3", "false alarms"),
    )


def modules(world: Mapping) -> dict:
    alone, dense = chain(world, UNCONTRASTED)[:1], chain(world, ONE_QUESTION)[:1]
    cosine = {"search.ranking": "cosine"}
    return study(
        "What does each module add?",
        [
            row("one pass", alone, "depth0", paper="0"),
            row("+ windows, the released ranking", alone, "depth1", search=cosine, paper="1.4"),
            row("+ contrastive windows", dense, "depth1", search=cosine, paper="4.8"),
            row("+ ranking by confidence", dense, "depth1", paper="8.4"),
            row("+ recursion", chain(world, ONE_QUESTION), "depth3", paper="15.0"),
        ],
        ("R1@.3", "R1@.1", "R5@.3", "false alarms", "frames"),
        paper="MAD, R1@.1",
    )


def variants(world: Mapping) -> dict:
    both = ("depth3", "depth3_bottom_up")
    return study(
        "One LoRA or two, top-down or bottom-up?",
        [
            row("default", chain(world), both[0], methods=both, paper="15.0, 363 M, 57 %"),
            row("U", unified(world), both[0], methods=both, paper="14.4, 159 M, 58 %"),
            row("I", chain(world), both[1], methods=both, paper="17.4, 363 M, 100 %"),
            row("U+I", unified(world), both[1], methods=both, paper="16.7, 159 M, 100 %"),
        ],
        ("R1@.3", "R1@.1", "search recall", "frames", "LLM tokens/query"),
        paper="MAD, R1@.1, trained parameters, frames",
    )


def negatives(world: Mapping) -> dict:
    rows = [
        row(name.replace("_", "-"), chain(world, {"data.negatives": ((name, 1.0),)})[:1], "depth1")
        for name in ("random", "hard", "semi_hard", "cross_video")
    ]
    changes = ENTROPY_ALONE | {"data.negatives": (("mined", 1.0),)}
    again = stage("dense on mined", "stage1", world["preset"], changes, mined="dense")
    rows.append(row("mined", [*chain(world)[:1], again], "depth1"))
    columns = ("R1@.3", "R1@.1", "false alarms", "AUROC", "ECE@.3")
    return study("Which contrastive windows teach most?", rows, columns, plotted=("R1@.3", "false alarms", "ECE@.3"))


def domains(world: Mapping) -> dict:
    rows = [
        row(name, chain(world), "depth3", data={"data.domain": name} if name != "day" else {})
        for name in ("day", "night", "crowded", "noisy")
    ]
    columns = ("R1@.3", "ECE@.3 raw", "ECE@.3", "AUROC@.3", "false alarms", "search recall")
    # The temperature is fitted on val, which is of the day.
    return study("Trained by day: what is left elsewhere?", rows, columns, plotted=("R1@.3", "ECE@.3 raw", "ECE@.3"))


def calibration(world: Mapping) -> dict:
    kinds = ("inverse_mean_entropy", "inverse_max_entropy", "sequence_likelihood")
    # The usual kind asks for nothing else, so that its answers are those of other studies.
    search = lambda kind: {"search.confidence": kind} if kind != kinds[0] else {}
    told = lambda kind, depth: "0.461, 0.470, 0.479" if (kind, depth) == (kinds[0], 3) else ""
    rows = [
        row(
            f"{kind.replace('_', ' ')}, depth {depth}", stages, f"depth{depth}", search=search(kind),
            series=f"depth {depth}", point=kind.replace("_", " "), paper=told(kind, depth),
        )
        for depth, stages in ((1, chain(world)[:1]), (3, chain(world)))
        for kind in kinds
    ]  # fmt: skip
    return study(
        "Which confidence can be believed?", rows,
        ("ECE@.1", "ECE@.3", "ECE@.5", "ECE@.3 raw", "AUROC@.1", "AUROC@.3", "AUROC@.5"),
        plotted=("ECE@.3", "AUROC@.3"), paper="MAD, ECE at IoU .1, .3, .5, as shares",
    )  # fmt: skip


def ranking(world: Mapping) -> dict:
    kinds: dict[str, dict[str, Any]] = {
        "entropy": {},
        "the released program's": {"search.ranking": "cosine"},
        "entropy and similarity": {"search.similarity": 5.0},
        "entropy and agreement": {"search.alone": 0.5},
        "all three": {"search.similarity": 5.0, "search.alone": 0.5},
    }
    lengths: dict[str, dict] = {"": {}}
    if world["preset"] == "tiny":
        lengths = {"1 hour": {}, "10 hours": {"data": LONG_VIDEO, "queries": SOME}}
    rows = [
        row(f"{kind}, {series}" if series else kind, chain(world)[:1], "depth1", search=search, series=series,
            point=kind, **given)
        for series, given in lengths.items()
        for kind, search in kinds.items()
        if series != "10 hours" or kind in ("entropy", "all three")
    ]  # fmt: skip
    columns = ("R1@.3", "R1@.1", "R5@.3", "false alarms", "AUROC", "AUROC@.3", "ECE@.3")
    return study("What should rank the answers?", rows, columns, plotted=("R1@.3", "false alarms", "AUROC@.3"))


def length(world: Mapping) -> dict:
    videos, rows = {0.5: 6, 1.0: 3, 2.0: 2, 5.0: 1, 10.0: 1}, []
    both, numbers = ("depth1", "depth3"), {"search.keep": (48, 16)}
    ways: dict[str, tuple[str, dict]] = {
        "all windows": ("depth1", {"methods": both}),
        "shares of the windows": ("depth3", {"methods": both}),
        "48 and 16 windows": ("depth3", {"search": numbers}),
    }
    for series, (method, given) in ways.items():
        for hours, count in videos.items():
            data = {"data.video_s": 3600.0 * hours, "data.test_videos": count}
            more = {"series": series, "point": f"{hours:g} h", "data": data, "queries": SOME}
            rows.append(row(f"{series}, {hours:g} h", chain(world), method, **given, **more))
    columns = ("R1@.3", "search recall", "frames/query", "LLM tokens/query", "s/query, warm")
    return study("Do cost and recall stand longer videos?", rows, columns, line=True,
                 plotted=("R1@.3", "LLM tokens/query", "s/query, warm"))  # fmt: skip


def cost(world: Mapping) -> dict:
    names = ("one pass", "all windows", "one upper level, then windows", "two upper levels, then windows")
    rows = [row(name, chain(world), f"depth{depth}") for depth, name in enumerate(names)]
    columns = ("R1@.3", "s/query, warm", "LLM tokens/query", "GFLOP/query", "frames/query")
    return study("What does a number of passes cost?", rows, columns, plotted=columns[:3])


def retrieval(world: Mapping) -> dict:
    preset = "retrieval" if world["preset"] == "tiny" else "msrvtt"
    stages = [*chain(world)[:2], stage("retrieval", "stage2", preset, ENTROPY_ALONE)]
    methods = {"clip": "CLIP's best frame", "depth1": "windows", "depth2": "one upper level", "depth3": "two"}
    rows = [row(name, stages, method, methods=tuple(methods)) for method, name in methods.items()]
    rows[-1]["paper"] = "49.1, 77.5, 85.7"
    return study("Do levels help to choose among short videos?", rows, ("R@1", "R@5", "R@10", "median rank"),
                 paper="MSRVTT, R@1, R@5, R@10")  # fmt: skip


BUILDERS = {
    "hierarchies": hierarchies, "features": features, "training": training, "modules": modules, "variants": variants,
    "negatives": negatives, "domains": domains, "calibration": calibration, "ranking": ranking, "length": length,
    "cost": cost, "retrieval": retrieval,
}  # fmt: skip
EMBEDDED = ("domains", "length", "retrieval")  # which films have no form of; retrieval has one on MSRVTT
# Name of a study -> (builder, world); at full size `STUDY_WORLD`.
PRESETS = {name: (name, "tiny") for name in BUILDERS} | {
    f"{name}_{world}": (name, world) for name in BUILDERS if name not in EMBEDDED for world in WORLDS if world != "tiny"
}
PRESETS["retrieval_msrvtt"] = ("retrieval", "msrvtt")
WORLDS["msrvtt"] = {"preset": "msrvtt"}


def defaults() -> ConfigDict:
    return get_config()


def get_config(preset: str = "hierarchies") -> ConfigDict:
    builder, world = PRESETS[preset]
    values = BUILDERS[builder](WORLDS[world])
    return ConfigDict({"name": preset, "seconds": SECONDS if world == "tiny" else {}, **values})
