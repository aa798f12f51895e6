"""The encoders of pictures and sentences that a directory may hold: its config.json decides which one it is."""

from pathlib import Path

from revision_jax.interop import clip, siglip
from revision_jax.interop.encoder import EncoderKind
from revision_jax.models.encoder import EncoderConfig
from revision_jax.text import read_object

# `model_type` of config.json -> the kind of encoder. SigLIP 2 at a fixed resolution is "siglip", too.
ENCODERS: dict[str, EncoderKind] = {kind.name: kind for kind in (clip.KIND, siglip.KIND)}
# Why others are refused, where that is known.
_REFUSED = {
    "siglip2": "SigLIP 2's NaFlex models take pictures of many shapes, and a feature store has one; take a SigLIP 2 of "
    "a fixed resolution, such as google/siglip2-base-patch16-224",
    **{
        name: f"it is one tower of a model; take the directory of the whole one ({name.partition('_')[0]})"
        for name in ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model")
    },
}


def encoder_kind(directory: str | Path) -> EncoderKind:
    """The kind of encoder in a Hugging Face directory.

    Raises:
      FileNotFoundError: no config.json.
      ValueError: another kind of model, by name.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a Hugging Face directory of {_expected()}")
    name = read_object(path).get("model_type")
    if not isinstance(name, str) or name not in ENCODERS:
        why = f": {_REFUSED[name]}" if isinstance(name, str) and name in _REFUSED else ""
        raise ValueError(f"{path}: model_type is {name!r}; expected an encoder, {_expected()}{why}")
    return ENCODERS[name]


def read_encoder_config(directory: str | Path) -> EncoderConfig:
    """The sizes of a directory's encoder; raises as `encoder_kind` does."""
    return encoder_kind(directory).read_config(directory)


def _expected() -> str:
    return " or ".join(f"{name!r}" for name in ENCODERS)
