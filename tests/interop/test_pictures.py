"""Image processors of transformers: those that extraction follows are accepted, every other setting is refused."""

import json

import pytest
import transformers

from revision_jax.interop.clip import PICTURES as CLIP
from revision_jax.interop.pictures import IMAGES, PROCESSOR, read_pictures
from revision_jax.known_keys import allowing

SIZE = 24


def save(folder, **changes):
    """What transformers writes for a CLIP of 24 pixels."""
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    transformers.CLIPImageProcessor(**sizes | changes).save_pretrained(folder)
    return json.loads((folder / IMAGES).read_text())


def test_what_transformers_writes_is_accepted_in_both_files(tmp_path):
    read_pictures(tmp_path, CLIP, SIZE)  # no file: OpenAI's settings
    raw = save(tmp_path)
    read_pictures(tmp_path, CLIP, SIZE)
    (tmp_path / PROCESSOR).write_text(json.dumps({"processor_class": "CLIPProcessor", "image_processor": raw}))
    read_pictures(tmp_path, CLIP, SIZE)
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIZE, "crop_size": SIZE, "resample": 3}
    (tmp_path / IMAGES).write_text(json.dumps(old))
    read_pictures(tmp_path, CLIP, SIZE)


@pytest.mark.parametrize(
    "change",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_resize": False},
        {"do_center_crop": False},
        {"rescale_factor": 1 / 127.5},
        {"resample": 2},
        {"size": {"shortest_edge": 32}},
        {"size": {"height": SIZE, "width": SIZE}},
        {"crop_size": {"height": 20, "width": 20}},
        {"image_mean": None},
        {"image_std": [0.5]},
    ],
    ids=str,
)
@pytest.mark.parametrize("file", [IMAGES, PROCESSOR])
def test_every_setting_that_would_be_ignored_is_refused_by_name(tmp_path, file, change):
    raw = save(tmp_path) | change
    (tmp_path / file).write_text(json.dumps({"image_processor": raw} if file == PROCESSOR else raw))
    with pytest.raises(ValueError, match=f"{file}: {next(iter(change))} is "):
        read_pictures(tmp_path, CLIP, SIZE)


def test_a_setting_that_is_not_known_is_refused_unless_it_is_allowed(tmp_path, caplog):
    raw = save(tmp_path) | {"some_new_trick": 1, "says_nothing": None}
    (tmp_path / IMAGES).write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"{IMAGES}: \['some_new_trick'\] are .*--allow-unknown some_new_trick"):
        read_pictures(tmp_path, CLIP, SIZE)
    with allowing(["some_new_trick"]):
        read_pictures(tmp_path, CLIP, SIZE)
    assert "'some_new_trick' is passed over" in caplog.text


def test_a_mean_that_stands_only_in_processor_config_is_told(tmp_path):
    raw = save(tmp_path, image_mean=[0.5, 0.5, 0.5])
    (tmp_path / IMAGES).unlink()
    (tmp_path / PROCESSOR).write_text(json.dumps({"image_processor": raw}))
    with pytest.raises(ValueError, match=rf"image_mean is \[0.5, 0.5, 0.5\], but without {IMAGES}.*write it into"):
        read_pictures(tmp_path, CLIP, SIZE)
    (tmp_path / IMAGES).write_text(json.dumps(raw))
    read_pictures(tmp_path, CLIP, SIZE)
