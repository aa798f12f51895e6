"""The registry of data sets: their names in `data.name` and `prepare`, and how their annotations are read.

To add one, write a reader in a file of its own here and add its entry to `DATA_SETS`. The subcommand of `prepare` with
its flags and the rule for `data.name` follow from the entry. Readers import the standard library only, so that `--help`
stays quick.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

from revision_jax.data.annotations.rows import Annotations
from revision_jax.data.builders.activitynet import read_activitynet, read_tacos
from revision_jax.data.builders.charades import read_charades
from revision_jax.data.builders.ego4d import read_ego4d
from revision_jax.data.builders.extremewhen import read_extremewhen
from revision_jax.data.builders.folder import read_own
from revision_jax.data.builders.mad import read_cone, read_mad
from revision_jax.data.builders.msrvtt import read_msrvtt
from revision_jax.data.builders.qvhighlights import read_qvhighlights
from revision_jax.data.builders.vidchapters import read_ids, read_vidchapters


@dataclasses.dataclass(frozen=True)
class Given:
    """What a person gives `prepare` for the annotations of a split.

    path: file with the annotations; None if none is given.
    keys: ids of the features or video files that there are.
    flags: name of each flag of the data set's own -> its value; None if it is not given.
    """

    path: str | None
    keys: Collection[str]
    flags: Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag `--NAME FILE` that one data set alone has."""

    name: str
    help: str
    required: bool = False


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One data set, or one form that annotations come in.

    help: a line for `prepare --help`.
    read: the rows of a split; None for data that `prepare` does not make.
    needs_annotations: whether `--annotations` must be given.
    flags: those beside the flags that all data sets have.
    scores: what papers report on it, columns of `report.table`; empty = what is shown of any data.
    hit: whether an IoU of exactly theta is a hit in those papers ("ge") or not ("mad"): `metrics.grounding`.
    """

    help: str
    read: Callable[[Given], Annotations] | None = None
    needs_annotations: bool = True
    flags: tuple[Flag, ...] = ()
    scores: tuple[str, ...] = ()
    hit: str = "mad"


SHORT = ("R1@.3", "R1@.5", "R1@.7", "R5@.5", "R5@.7", "mIoU")  # of papers on videos of minutes
DATA_SETS = {
    "shapes": DataSet("the embedded world; made when it is missing"),
    "mad": DataSet("MAD: MAD_{train,val,test}.json and its features", lambda given: read_mad(given.path)),
    "cone": DataSet(
        "a jsonl in CONE's form (MAD, Ego4D-NLQ) and features", lambda given: read_cone(given.path, given.keys)
    ),
    "vidchapters": DataSet(
        "VidChapters-7M: chapters_vmr_*.json and features",
        lambda given: read_vidchapters(given.path, read_ids(given.flags["ids"]) if given.flags["ids"] else given.keys),
        flags=(Flag("ids", "{train,val,test}.json with the true video ids"),),
    ),
    "msrvtt": DataSet(
        "MSR-VTT: MSRVTT_data.json, the CSV of a split, videos or features",
        lambda given: read_msrvtt(given.path, given.flags["csv"]),
        needs_annotations=False,
        flags=(Flag("csv", "the videos of the split", required=True),),
    ),
    "charades": DataSet(
        "Charades-STA: charades_sta_{train,test}.txt",
        lambda given: read_charades(given.path),
        scores=SHORT,
        hit="ge",
    ),
    "activitynet": DataSet(
        "ActivityNet Captions: train.json, val_1.json, val_2.json",
        lambda given: read_activitynet(given.path, given.keys),
        scores=SHORT,
        hit="ge",
    ),
    "tacos": DataSet(
        "TACoS: {train,val,test}.json, times in frames",
        lambda given: read_tacos(given.path, given.keys),
        scores=("R1@.1", "R1@.3", "R1@.5", "R5@.1", "R5@.3", "R5@.5", "mIoU"),
        hit="ge",
    ),
    "qvhighlights": DataSet(
        "QVHighlights: highlight_{train,val,test}_release.jsonl",
        lambda given: read_qvhighlights(given.path),
        scores=("R1@.5", "R1@.7", "mAP@.5", "mAP@.75", "mAP"),
        hit="ge",
    ),
    "extremewhen": DataSet(
        "ExtremeWhenBench: its questions as json or jsonl",
        lambda given: read_extremewhen(given.path),
        scores=("mIoU", "R1@.3", "R1@.5", "R1@.7"),
        hit="ge",
    ),
    "ego4d": DataSet(
        "Ego4D natural language queries: nlq_{train,val}.json, by clip",
        lambda given: read_ego4d(given.path),
        scores=("R1@.3", "R1@.5", "R5@.3", "R5@.5"),  # its own mIoU is another one, of three moments
    ),
    "folder": DataSet(
        "your own videos or features, and queries: a jsonl, a CSV, ELAN's files, subtitles",
        lambda given: read_own(given.path, given.keys) if given.path else Annotations([]),
        needs_annotations=False,
    ),
    "lcs": DataSet("LCS-558K's image captions; read as they are downloaded"),
}
