"""What a CLIP directory says of its pictures: settings that the extraction of features does not follow are refused.

Extraction scales the short side to the model's size (bicubic), crops the centre, divides by 255 and normalises with
the mean and deviation of preprocessor_config.json (OpenAI's without one).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revision_jax.known_keys import OBJECT, check_kinds, or_null, told, unknown_keys
from revision_jax.text import read_object

PROCESSOR, IMAGES = "processor_config.json", "preprocessor_config.json"
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_STATISTICS = {  # without a file: OpenAI's
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_BICUBIC = 3
_CHECKED = (*_STEPS, *_STATISTICS, "rescale_factor", "resample", "size", "crop_size")
_HARMLESS = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "tokenizer_class", "_processor_class"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "default_to_square"),
    *("do_convert_rgb", "image_seq_length", "use_fast", "_valid_processor_keys"),  # frames are RGB already
)

_AROUND = ("image_processor", "processor_class", "tokenizer", "chat_template", "transformers_version")


def check_processor(directory: str | Path, image_size: int) -> None:
    """Raises ValueError that lists every setting of a directory's image processor that would be ignored.

    Args:
      image_size: pixels of the model's square pictures.
    """
    images, processor = (_read(Path(directory) / name) for name in (IMAGES, PROCESSOR))
    nested = (processor or {}).get("image_processor")
    faults = _faults(images, image_size, Path(directory) / IMAGES) if images else []
    if unknown := unknown_keys(processor or {}, _AROUND):
        faults.append(f"{Path(directory) / PROCESSOR}: {told(unknown)}")
    if nested:
        faults += _faults(nested, image_size, Path(directory) / PROCESSOR)
        used = _STATISTICS | (images or {})
        for key, default in _STATISTICS.items():
            if not _same(nested.get(key, default), used[key]):
                where = f"{IMAGES} has {used[key]!r}" if images else f"without {IMAGES}, {used[key]!r} is used"
                faults.append(f"{directory}/{PROCESSOR}: {key} is {nested[key]!r}, but {where}; write it into {IMAGES}")
    if faults:
        raise ValueError("features would differ from those this CLIP was made for:\n  " + "\n  ".join(faults))


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    raw = read_object(path)
    check_kinds(path, raw, {"image_processor": or_null(OBJECT)})
    return raw


def _faults(raw: Mapping[str, Any], size: int, path: Path) -> list[str]:
    expected = {key: (raw.get(key, True) is True, "true") for key in _STEPS}
    expected |= {key: (is_triple(raw.get(key, default)), "three numbers") for key, default in _STATISTICS.items()}
    factor = raw.get("rescale_factor", 1 / 255)
    expected["rescale_factor"] = (_is_number(factor) and math.isclose(factor, 1 / 255, rel_tol=1e-6), "1 / 255")
    expected["resample"] = (raw.get("resample", _BICUBIC) == _BICUBIC, f"{_BICUBIC} (bicubic)")
    expected["size"] = (raw.get("size", size) in (size, {"shortest_edge": size}), f"a shortest edge of {size}")
    square = {"height": size, "width": size}
    expected["crop_size"] = (raw.get("crop_size", size) in (size, square), f"{square}")
    faults = [
        f"{path}: {key} is {raw[key]!r}; expected {wanted}" for key, (good, wanted) in expected.items() if not good
    ]
    unknown = unknown_keys(raw, _CHECKED + _HARMLESS)
    return faults + ([f"{path}: {told(unknown)}"] if unknown else [])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_triple(value: Any) -> bool:
    """Whether it is a list of three numbers."""
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _same(one: Any, other: Any) -> bool:
    """Whether two triples are equal; what is no triple is told elsewhere."""
    return not (is_triple(one) and is_triple(other)) or all(map(math.isclose, one, other))
