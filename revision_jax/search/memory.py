"""How much memory a search needs, before it starts; and the largest blocks that fit a budget.

Counted are the arrays of `program.py` that live at the same time, per device, a little more than they take: tests
compare the count with the compiler's report.

Letters: B windows of a block, q queries together, Q queries, W windows, U upper windows, S context tokens, T question
tokens, R pairs decoded together, K answers of a pair, A answer tokens, V vocabulary, L layers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from revision_jax.models.adapter import SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Llama
from revision_jax.search.models import Models
from revision_jax.search.packing.inputs import VideoInputs
from revision_jax.search.packing.packer import Packed
from revision_jax.search.plan import Plan
from revision_jax.search.program import Fixed
from revision_jax.search.settings import SearchSettings
from revision_jax.units import GIB

_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes a device needs: weights, inputs and results of the video, one block of work."""

    weights: int
    video: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.video + self.work

    def __str__(self) -> str:
        parts = [f"{name} {getattr(self, name) / GIB:.2f}" for name in ("weights", "video", "work")]
        return f"{self.total / GIB:.2f} GiB ({', '.join(parts)})"


@dataclasses.dataclass(frozen=True)
class LLMSize:
    """What a language model's arrays need: bytes of a cached token, of a token in work, of a row of logits."""

    cached: int
    working: int
    logits: int
    heads: int

    @classmethod
    def of(cls, llm: Llama) -> "LLMSize":
        """The sizes of a language model."""
        config, item = llm.config, jax.numpy.dtype(llm.dtype).itemsize
        return cls(
            cached=2 * config.num_layers * config.num_kv_heads * config.head_dim * item,
            # The residual stream, what is normalised of it in float32, queries, keys and values, the MLP's middle.
            working=(3 * config.hidden_size + 3 * config.intermediate_size) * item + 6 * config.hidden_size * _FLOAT,
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
      weights: bytes of all parameters, as they lie on a device.
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

    @classmethod
    def of(cls, models: Models, weights: int, context: int, fixed: Fixed, answer_tokens: int) -> "Sizes":
        """The sizes of a searcher's models; arguments as the attributes, F and shards of `fixed`."""
        dense, upper, num_frames = models.dense, models.upper, fixed.num_frames
        hidden, sees = dense.llm.config.hidden_size, dense.visual.frames_see_query
        seeing = _encoder_work(dense.sparse, num_frames) if sees else 0
        return cls(
            weights=weights,
            dense=LLMSize.of(dense.llm),
            upper=None if upper is None else LLMSize.of(upper.llm),
            num_frames=num_frames,
            context=context,
            answer_tokens=answer_tokens,
            shards=fixed.shards,
            window_bytes=_FLOAT * num_frames * (dense.visual_width + hidden) + seeing,
            vector_bytes=_FLOAT * hidden,
            sparse_bytes=0 if upper is None else sparse_work(upper, num_frames),
        )


def needed(sizes: Sizes, packed: Packed) -> Need:
    """What a packed search needs of a device's memory."""
    plan, video = packed
    dense, settings = sizes.dense, plan.settings
    nbytes = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    num_queries, windows = len(video.questions.tokens), video.table.valid.size
    # Answers are carried through two loops and gathered over devices.
    results = 3 * num_queries * windows * settings.beam * (sizes.answer_tokens + 8) * _FLOAT
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
    return Need(sizes.weights, nbytes(video) + results, work)


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
    settings: SearchSettings, shards: int, budget: float, need_of: Callable[[SearchSettings], Need]
) -> SearchSettings:
    """The first of `smaller(settings)` whose need is within `budget` bytes.

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
        f"Raise --memory_gib, ask fewer queries at once, or divide the model (mesh.fsdp, mesh.tensor)."
    )


def device_memory_gib(mesh: Mesh | None) -> float:
    """90 % of what a device of the mesh says it may use; 0 where it does not say."""
    device = jax.devices()[0] if mesh is None else mesh.local_devices[0]
    stats = device.memory_stats() or {}
    return 0.9 * stats.get("bytes_limit", 0) / GIB
