"""What an encoder's directory says of its pictures: settings that extraction does not follow are refused.

Extraction makes a picture square, divides it by 255, and normalises it with the mean and deviation of
preprocessor_config.json. CLIP's pictures keep their shape: the short side is scaled, the centre cut out. SigLIP's are
scaled to a square.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from revision_jax.known_keys import OBJECT, check_kinds, or_null, told, unknown_keys
from revision_jax.text import read_object

PROCESSOR, IMAGES = "processor_config.json", "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}  # as PIL numbers them
_STEPS = ("do_resize", "do_rescale", "do_normalize")
_STATISTICS = ("image_mean", "image_std")
_CHECKED = (*_STEPS, *_STATISTICS, "do_center_crop", "rescale_factor", "resample", "size", "crop_size")
_HARMLESS = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "tokenizer_class", "_processor_class"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "default_to_square"),
    *("do_convert_rgb", "image_seq_length", "use_fast", "_valid_processor_keys"),  # frames are RGB already
)
_AROUND = ("image_processor", "processor_class", "tokenizer", "chat_template", "transformers_version")


class PictureRules(NamedTuple):
    """How the pictures of a kind of encoder are made.

    Attributes:
      crop: whether the short side is scaled and the centre cut out; else both sides are scaled.
      filters: those of `FILTERS` that its checkpoints use; the first where nothing is said.
      mean, std: of RGB in 0..1, where nothing is said.
    """

    crop: bool
    filters: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Pictures(NamedTuple):
    """How the pictures of one encoder are made: the fields of `PictureRules`, decided; `filter` is a name."""

    size: int
    crop: bool
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def default_pictures(rules: PictureRules, size: int) -> Pictures:
    """Those of an encoder whose directory says nothing of pictures; `size`: pixels of a side."""
    return Pictures(size, rules.crop, FILTERS[rules.filters[0]], rules.mean, rules.std)


def read_pictures(directory: str | Path, rules: PictureRules, size: int) -> Pictures:
    """How the pictures of a directory's encoder are made.

    Args:
      size: pixels of the model's square pictures.

    Raises:
      ValueError: lists every setting of the directory's image processor that would be ignored.
    """
    images, processor = (_read(Path(directory) / name) for name in (IMAGES, PROCESSOR))
    nested = (processor or {}).get("image_processor")
    expected = _Expected(rules, size)
    faults = expected.faults(images, Path(directory) / IMAGES) if images else []
    if unknown := unknown_keys(processor or {}, _AROUND):
        faults.append(f"{Path(directory) / PROCESSOR}: {told(unknown)}")
    if nested:
        faults += expected.faults(nested, Path(directory) / PROCESSOR)
        used = expected.defaults | (images or {})
        for key, default in expected.defaults.items():
            if not _same(nested.get(key, default), used[key]):
                where = f"{IMAGES} has {used[key]!r}" if images else f"without {IMAGES}, {used[key]!r} is used"
                faults.append(f"{directory}/{PROCESSOR}: {key} is {nested[key]!r}, but {where}; write it into {IMAGES}")
    if faults:
        raise ValueError("features would differ from those this encoder was made for:\n  " + "\n  ".join(faults))
    used = expected.defaults | (images or {})
    mean, std = (tuple(used[key]) for key in _STATISTICS)
    return Pictures(size, rules.crop, FILTERS[used["resample"]], mean, std)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    raw = read_object(path)
    check_kinds(path, raw, {"image_processor": or_null(OBJECT)})
    return raw


class _Expected:
    """What a file about pictures may say."""

    def __init__(self, rules: PictureRules, size: int):
        self.rules, self.size = rules, size
        self.defaults = {"image_mean": [*rules.mean], "image_std": [*rules.std], "resample": rules.filters[0]}

    def faults(self, raw: Mapping[str, Any], path: Path) -> list[str]:
        faults = [
            f"{path}: {key} is {raw[key]!r}; expected {wanted}"
            for key, (good, wanted) in self._rules(raw).items()
            if not good
        ]
        unknown = unknown_keys(raw, _CHECKED + _HARMLESS)
        return faults + ([f"{path}: {told(unknown)}"] if unknown else [])

    def _rules(self, raw: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
        """Key -> (whether its value is followed, what is)."""
        crop, size = self.rules.crop, self.size
        rules = {key: (raw.get(key, True) is True, "true") for key in _STEPS}
        for key in _STATISTICS:
            rules[key] = (_is_triple(raw.get(key, self.defaults[key])), "three numbers")
        factor = raw.get("rescale_factor", 1 / 255)
        rules["rescale_factor"] = (_is_number(factor) and math.isclose(factor, 1 / 255, rel_tol=1e-6), "1 / 255")
        filters = " or ".join(f"{number} ({FILTERS[number]})" for number in self.rules.filters)
        resample = raw.get("resample", self.defaults["resample"])
        rules["resample"] = (type(resample) is int and resample in self.rules.filters, filters)
        square = {"height": size, "width": size}
        if crop:
            rules["do_center_crop"] = (raw.get("do_center_crop", True) is True, "true")
            rules["size"] = (raw.get("size", size) in (size, {"shortest_edge": size}), f"a shortest edge of {size}")
            rules["crop_size"] = (raw.get("crop_size", size) in (size, square), f"{square}")
        else:
            rules["do_center_crop"] = (not raw.get("do_center_crop"), "false")
            rules["size"] = (raw.get("size", square) == square, f"{square}")
        return rules


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are equal; what is no triple, where one is expected, is told elsewhere."""
    if not (_is_triple(one) and _is_triple(other)):
        return isinstance(other, list) or one == other
    return all(map(math.isclose, one, other))
