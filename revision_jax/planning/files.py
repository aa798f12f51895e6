"""The work of the steps that read and write files: features of videos made or taken over, and a run exported."""

from ml_collections import ConfigDict

from revision_jax.models.encoder import EncoderConfig
from revision_jax.planning.counts import LCS_IMAGES, Count
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.training import PROCESS, feature_bytes
from revision_jax.planning.work import Work
from revision_jax.runs.base import encoder_of, llama_config
from revision_jax.units import GIB

FRAMES = 128  # that are encoded together


def frame_flops(encoder: EncoderConfig) -> float:
    """FLOPs of the encoder for one frame: 2 a multiply-add, attention over all patches."""
    vision = encoder.vision
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    width, inner, layers = vision.hidden_size, vision.intermediate_size, vision.num_layers
    a_token = 2 * (4 * width**2 + 2 * width * inner) + 4 * tokens * width
    patches = 2 * (tokens - 1) * 3 * vision.patch_size**2 * width
    return layers * tokens * a_token + patches + 2 * width * encoder.feature_width


def encoder_bytes(encoder: EncoderConfig) -> float:
    """Of a chip: both towers in float32, and what a layer holds of a batch of frames."""
    vision, text = encoder.vision, encoder.text
    tower = lambda sizes: (
        sizes.num_layers * (4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size)
    )
    weights = tower(vision) + tower(text) + text.vocab_size * text.hidden_size
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    a_token = 4 * vision.hidden_size + vision.intermediate_size + vision.num_heads * tokens
    return 4 * (weights + FRAMES * tokens * a_token)


def prepare_work(config: ConfigDict, counts: dict[str, Count], source: str, machine: Machine, rates: Rates) -> Work:
    """The work of `prepare` for all splits.

    Args:
      source: "videos" that are decoded and encoded, "features" that others made, or "shapes", which are rendered.
    """
    encoder = encoder_of(config)[1]
    hours = sum(count.hours for count in counts.values())
    frames = hours * 3600 * config.data.fps
    features = sum(feature_bytes(config, count) for count in counts.values())
    work = {"flops": 0.0, "device_bytes": 0.0, "read_bytes": features}
    work |= {"core_s": features / (rates.take_gbs * 1e9), "processes": machine.hosts}
    if source == "videos":
        work |= {"flops": frames * frame_flops(encoder), "device_bytes": encoder_bytes(encoder)}
        work |= {"core_s": hours * 3600 / rates.decode_rate, "processes": 0}
        work |= {"read_bytes": hours * rates.video_gb_hour * 1e9}
    if source == "shapes":  # one process renders and encodes; the encoder's time is in its rate
        work |= {"core_s": hours * 3600 / rates.render_rate, "processes": 1, "hosts": 1, "read_bytes": 0.0}
    return Work(
        name="prepare",
        utilisation=rates.encode_utilisation,
        chips=machine.chips,
        written_bytes=features,
        commands=len(counts),
        disk_bytes=features,
        host_bytes=PROCESS,
        note=f"{hours:,.0f} h of {source}",
        **work,
    )


def image_work(config: ConfigDict, rates: Rates) -> float:
    """FLOPs that encoding the images of LCS-558K takes, as so many of training at its utilisation; else 0."""
    if config.data.name != "lcs":
        return 0.0
    encoded = LCS_IMAGES * frame_flops(encoder_of(config)[1])
    return encoded * rates.train_utilisation / rates.encode_utilisation


def llm_parameters(config: ConfigDict) -> float:
    """Of the language model: layers, embeddings, head."""
    sizes = llama_config(config)
    width, heads = sizes.hidden_size, sizes.num_heads + sizes.num_kv_heads
    layer = 2 * width * sizes.head_dim * heads + 3 * width * sizes.intermediate_size + 2 * width
    return sizes.num_layers * layer + 2 * sizes.vocab_size * width + width


def export_work(config: ConfigDict) -> Work:
    """The work of `export --format huggingface`: the LoRA merged into the LLM, in shards of at most 1 GiB."""
    width = 2 if config.model.dtype == "bfloat16" else 4
    size = llm_parameters(config) * width
    return Work(
        name="export",
        hosts=1,
        read_bytes=2 * size,  # the source, and what was written, for the check
        written_bytes=size,
        disk_bytes=size,
        host_bytes=PROCESS + 2 * min(size, GIB),
        note="the merged LLM, on one host",
    )
