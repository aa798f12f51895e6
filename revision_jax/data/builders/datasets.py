"""The registry of data sets: their names in `data.name` and `prepare`, and how their annotations are read.

To add one, write a reader in a file of its own here and add its entry to `DATA_SETS`. The subcommand of `prepare` with
its flags and the rule for `data.name` follow from the entry. Readers import the standard library only, so that `--help`
stays quick.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

from revision_jax.data.annotations.rows import Annotations
from revision_jax.data.builders.folder import read_queries
from revision_jax.data.builders.mad import read_cone, read_mad
from revision_jax.data.builders.msrvtt import read_msrvtt
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
    """

    help: str
    read: Callable[[Given], Annotations] | None = None
    needs_annotations: bool = True
    flags: tuple[Flag, ...] = ()


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
    "folder": DataSet(
        "your own videos or features, and a jsonl of queries",
        lambda given: read_queries(given.path) if given.path else Annotations([]),
        needs_annotations=False,
    ),
    "lcs": DataSet("LCS-558K's image captions; read as they are downloaded"),
}
