"""How much memory a search needs, before it starts; and the largest blocks that fit a budget.

Counted are the arrays of `program.py` that live at the same time, per device, a little more than they take: tests
compare the count with the compiler's report.

Letters: B windows of a block, q queries together, Q queries, W windows, U upper windows, S context tokens, T question
tokens, R pairs decoded together, K answers of a pair, A answer tokens, V vocabulary, L layers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from revision_jax.models.adapter import SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Llama
from revision_jax.parallel.memory import held, host_limit
from revision_jax.search.models import Models
from revision_jax.search.packing.inputs import VideoInputs
from revision_jax.search.packing.packer import Packed
from revision_jax.search.plan import Plan
from revision_jax.search.program import Fixed
from revision_jax.search.settings import SearchSettings
from revision_jax.units import GIB

_FLOAT = 4
# Whether a program on a CPU begins with float32 copies of all narrow weights: 0.10.2 makes them, 0.11.2 does not.
COPIES_WHOLE = jax.__version_info__ < (0, 11)
LOWER = (
    "lower --search.beam, divide the model (--mesh.fsdp, --mesh.tensor) or use a run whose weights have 8 bits "
    "(model.param_dtype=int8)"
)


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes a device needs: weights, inputs and results of the video, one block of work; what lies beside them."""

    weights: int
    video: int
    work: int
    beside: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.video + self.work + self.beside

    def __str__(self) -> str:
        names = ("weights", "video", "work", *(("beside",) if self.beside else ()))
        parts = [f"{name} {getattr(self, name) / GIB:.2f}" for name in names]
        return f"{self.total / GIB:.2f} GiB ({', '.join(parts)})"


@dataclasses.dataclass(frozen=True)
class LLMSize:
    """What a language model's arrays need: bytes of a cached token, of a token in work, of a row of logits."""

    cached: int
    working: int
    logits: int
    heads: int

    @classmethod
    def of(cls, llm: Llama, least: int = 1) -> "LLMSize":
        """The sizes of a language model, which computes with at least so many bytes a value."""
        config, item = llm.config, max(jax.numpy.dtype(llm.dtype).itemsize, least)
        # Queries, keys and values: in some families wider than the residual stream.
        heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        narrow = max(3 * config.hidden_size, heads) + 3 * config.intermediate_size
        normed = max(6 * config.hidden_size, 4 * heads if config.qk_norm else 0)
        return cls(
            cached=2 * config.num_layers * config.num_kv_heads * config.head_dim * item,
            # The residual stream, queries, keys and values, the MLP's middle; what is normalised of them in float32.
            working=narrow * item + normed * _FLOAT,
            logits=3 * config.vocab_size * _FLOAT,
            heads=config.num_heads,
        )

    def prefill(self, rows: int, length: int) -> int:
        """A causal prefix without its cache; scores of attention as XLA's reference makes them."""
        return rows * (length * self.working + 3 * self.heads * length * length * _FLOAT)

    def asked(self, rows: int, questions: int, length: int, tokens: int, slots: int) -> int:
        """Questions of `tokens` read behind rows of `length`; the suffix cache is written to a copy."""
        scores = 3 * self.heads * tokens * (length + slots) * _FLOAT
        return rows * questions * (2 * slots * self.cached + tokens * self.working + scores + self.logits)

    def decoded(self, rows: int, length: int, slots: int) -> int:
        """Rows that go on with caches of their own."""
        return rows * ((length + 3 * slots) * self.cached + self.working + self.logits)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the packed inputs do not say.

    Attributes:
      weights: bytes of all parameters, as they lie on a device; beside: of what else lies there.
      copies: bytes of copies of parameters that the program makes.
      dense, upper: of the grounders' language models; None without upper levels.
      num_frames: F; context: tokens before a question's head.
      answer_tokens: A; shards: devices that share a block.
      window_bytes: features of a window in float32 and as embeddings; where frames see the query, what makes them.
      vector_bytes: a sparse vector, in float32.
      sparse_bytes: the sparse adapter at work on its chunk of windows.
    """

    weights: int
    dense: LLMSize
    upper: LLMSize | None
    num_frames: int
    context: int
    answer_tokens: int
    shards: int
    window_bytes: int
    vector_bytes: int
    sparse_bytes: int
    copies: int = 0
    beside: int = 0

    @classmethod
    def of(cls, models: Models, weights: Any, context: int, fixed: Fixed, answer_tokens: int) -> "Sizes":
        """The sizes of a searcher's models.

        Args:
          weights: the parameters in their places, or their shapes.
          context, answer_tokens: as the attributes; F and shards are those of `fixed`.
        """
        cpu = on_cpu(fixed.mesh)
        least = _FLOAT if cpu else 1
        dense, upper, num_frames = models.dense, models.upper, fixed.num_frames
        hidden, sees = dense.llm.config.hidden_size, dense.visual.frames_see_query
        seeing = _encoder_work(dense.sparse, num_frames) if sees else 0
        return cls(
            weights=held(weights),
            copies=float32_copies(weights, dense.llm) if cpu else 0,
            dense=LLMSize.of(dense.llm, least),
            upper=None if upper is None else LLMSize.of(upper.llm, least),
            num_frames=num_frames,
            context=context,
            answer_tokens=answer_tokens,
            shards=fixed.shards,
            window_bytes=_FLOAT * num_frames * (dense.visual_width + hidden) + seeing,
            vector_bytes=_FLOAT * hidden,
            sparse_bytes=0 if upper is None else sparse_work(upper, num_frames),
        )


def answers_bytes(beam: int, answer_tokens: int) -> int:
    """Bytes of the answers about one pair of query and dense window."""
    return beam * (answer_tokens + 8) * _FLOAT


def needed(sizes: Sizes, packed: Packed) -> Need:
    """What a packed search needs of a device's memory."""
    plan, video = packed
    dense, settings = sizes.dense, plan.settings
    nbytes = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    num_queries, windows = len(video.questions.tokens), video.table.valid.size
    # Answers are carried through two loops, or three, and gathered over devices.
    results = (4 if settings.verify else 3) * num_queries * windows * answers_bytes(settings.beam, sizes.answer_tokens)
    results += num_queries * windows * 6 * _FLOAT
    block = video.table.valid.shape[1] // sizes.shards
    context = sizes.context + len(video.questions.head)
    tokens = video.questions.tokens.shape[1]
    slots = tokens + sizes.answer_tokens
    rows = block * context * dense.cached
    asked = dense.asked(block, plan.dense_batch, context, tokens, slots)
    asked += dense.decoded(settings.decode_block * settings.beam, context, slots)
    work = rows + max(dense.prefill(block, context), asked) + 2 * block * sizes.window_bytes
    if plan.levels:
        work = max(work, _upper_work(sizes, plan, video))
    if settings.similarity:  # cosines of a block, and which frames each answer has; on every device of the mesh
        frames = num_queries * video.table.frames[0].size
        work = max(
            work, (1 + 2 * settings.beam) * frames * _FLOAT + 2 * video.table.frames[0].shape[0] * sizes.window_bytes
        )
    return Need(sizes.weights, nbytes(video) + results, work + sizes.copies, sizes.beside)


def on_cpu(mesh: Mesh | None) -> bool:
    """Whether a search on this mesh, or on the default device, runs on a CPU."""
    return (jax.devices()[0] if mesh is None else mesh.devices.flat[0]).platform == "cpu"


def float32_copies(weights: Any, llm: Llama) -> int:
    """Bytes of the float32 copies that XLA makes of weights on a CPU: one layer, as it is read; where `COPIES_WHOLE`,
    all weights of fewer bits, too."""
    layer = sum(x.size for x in jax.tree.leaves(nnx.state(llm.layers))) // llm.config.num_layers
    if not COPIES_WHOLE:
        return layer * _FLOAT
    floats = [x for x in jax.tree.leaves(weights) if jnp.issubdtype(x.dtype, jnp.floating)]
    narrow = sum(held([x]) // x.dtype.itemsize for x in floats if x.dtype.itemsize < _FLOAT)
    return (narrow + layer) * _FLOAT


def _upper_work(sizes: Sizes, plan: Plan, video: VideoInputs) -> int:
    """Bytes of one chunk of queries at the upper levels."""
    settings, upper = plan.settings, sizes.upper
    windows, tokens = video.upper.table.valid.size, video.upper.questions.tokens.shape[1]
    vectors = 2 * plan.upper_batch * windows * sizes.vector_bytes
    asked = 0
    for level in plan.levels:
        groups = min(plan.upper_batch * -(-windows // level.size), settings.window_block // sizes.shards)
        context = sizes.context - sizes.num_frames + level.size + len(video.questions.head)
        nodes = len(level.tree.tokens)
        slots = tokens + max(nodes, level.answer_tokens)
        one = groups * context * upper.cached + groups * nodes * (upper.logits + upper.working)
        one += max(upper.prefill(groups, context), upper.asked(groups, 1, context, tokens, slots))
        asked = max(asked, one + upper.decoded(settings.decode_block, context, slots))
    block = video.upper.table.valid.shape[1]
    return vectors + max(asked, sizes.sparse_bytes + 2 * block * sizes.window_bytes)


def sparse_work(grounder: Grounder, num_frames: int) -> int:
    """Bytes of the sparse adapter at work on `window_chunk` windows."""
    return grounder.window_chunk * _encoder_work(grounder.sparse, num_frames)


def _encoder_work(sparse: SparseAdapter, num_frames: int) -> int:
    """Bytes of the sparse adapter at work on one window."""
    _, width, inner = sparse.encoder.linear1.kernel.shape
    frames = num_frames + 1
    return _FLOAT * (frames * (10 * width + 2 * inner) + 3 * sparse.encoder.num_heads * frames * frames)


def smaller(settings: SearchSettings, shards: int) -> Iterator[SearchSettings]:
    """The settings, then with smaller and smaller blocks: windows first, for these hold the caches."""
    yield settings
    least = {"window_block": shards, "query_batch": 1, "decode_block": 1}
    for name, low in least.items():
        while (size := getattr(settings, name)) > low:
            settings = dataclasses.replace(settings, **{name: math.ceil(size / (2 * low)) * low})
            yield settings


def fit(
    settings: SearchSettings, shards: int, budget: float, need_of: Callable[[SearchSettings], Need], raising: str = ""
) -> SearchSettings:
    """The first of `smaller(settings)` whose need is within `budget` bytes.

    Args:
      raising: `Memory.raising`.

    Raises:
      MemoryError: none is; the message says what the least one needs.
    """
    need = None
    for some in smaller(settings, shards):
        need = need_of(some)
        if need.total <= budget:
            return some
    raise MemoryError(
        f"a search needs at least {need}, one window and one query at a time; the budget is {budget / GIB:.2f} GiB. "
        f"To go on, {raising}{LOWER}."
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a search may use of a device.

    Attributes:
      gib: in all; 0 takes what the device has, see `device_memory_gib`.
      beside: bytes that other arrays take of it, such as CLIP.
    """

    gib: float = 0.0
    beside: int = 0

    def budget(self, mesh: Mesh | None) -> float:
        """Bytes, those of `beside` among them."""
        return (self.gib or device_memory_gib(mesh)) * GIB

    @property
    def raising(self) -> str:
        """What a message recommends first: nothing where the budget is the device's own."""
        return "raise --memory_gib, " if self.gib else ""

    def check(self, mesh: Mesh | None, weights: int, work: int, what: str) -> None:
        """Raises MemoryError where `work` bytes of `what` do not fit beside the weights."""
        need, budget = weights + self.beside + work, self.budget(mesh)
        if need > budget:
            raise MemoryError(
                f"{what} needs {work / GIB:.2f} GiB beside the models' {(weights + self.beside) / GIB:.2f}; the budget "
                f"is {budget / GIB:.2f} GiB. To go on, {self.raising}leave it out of --methods, or {LOWER}."
            )


WHOLE_DEVICE = Memory()


def device_memory_gib(mesh: Mesh | None) -> float:
    """90 % of what a device of the mesh says it may use; where it does not say (CPU), its part of 80 % of the host."""
    devices = jax.local_devices() if mesh is None else mesh.local_devices
    told = (devices[0].memory_stats() or {}).get("bytes_limit")
    return (0.9 * told if told else 0.8 * host_limit() / (1 if mesh is None else len(devices))) / GIB
