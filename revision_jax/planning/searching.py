"""The work of an evaluation, in closed form: what a search of the mean video with its queries needs, for every method.

It follows `search.counting`, which counts a search that was done, with means in place of what was found.
Letters: W dense windows, U upper windows, Q queries of a video, P prefix tokens, F frames a window.
"""

from typing import NamedTuple

from revision_jax.ahead.abstract import prompts_or_stand_in
from revision_jax.planning.counts import Count
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.training import A_QUERY, PROCESS, feature_bytes, programs_of
from revision_jax.planning.work import Work
from revision_jax.prompts import AnswerGrammar, PromptEncoder, dense_answers, group_answers
from revision_jax.runs.base import encoder_of, llama_config
from revision_jax.runs.batches import GROUPS, group_rows
from revision_jax.runs.run import Run
from revision_jax.search.counting import Flops
from revision_jax.search.levels.selection import NumberTree
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.memory import answers_bytes
from revision_jax.search.method import compared_methods, known_methods
from revision_jax.search.packing.padding import query_chunks
from revision_jax.search.packing.questions import QuestionEncoder
from revision_jax.search.packing.shared import SHARED_BYTES
from revision_jax.search.policies import find_policy
from revision_jax.search.policy import window_counts
from revision_jax.search.settings import SearchSettings
from revision_jax.units import GIB


class Found(NamedTuple):
    """Of one search of one video.

    Attributes:
      parts: FLOPs of `dense`, of `vectors` and of each level, by its windows of a group.
      wholes: the same of all windows; none of one pass over the whole video, whose window is no other search's.
      encoded: dense windows that went through the language model; pairs: of query and window that were asked.
    """

    parts: dict[str | int, float]
    wholes: dict[str | int, float]
    encoded: float
    pairs: float

    @property
    def flops(self) -> float:
        """Of the search alone."""
        return sum(self.parts.values())


class SearchCount:
    """Counts searches of one run: its grounders as shapes, its windows, its prompt.

    Attributes:
      max_depth: of its searches.
    """

    def __init__(self, run: Run, rates: Rates):
        self.run, self.rates = run, rates
        self.prompts, self.hierarchy = prompts_or_stand_in(run.config), run.hierarchy
        self.settings = SearchSettings.of(run.config.search)
        models = run.models("abstract")
        self.dense, self.upper = Flops(models.dense), None if models.upper is None else Flops(models.upper)
        self.max_depth = 1 if models.upper is None else self.hierarchy.max_depth
        self.levels = [] if models.upper is None else _levels(self.prompts, self.hierarchy.levels, self.settings)
        self.prefix, self.frames = len(self.prompts.prefix), self.hierarchy.num_frames
        questions = QuestionEncoder(self.prompts, "group", 0)
        self.heads = {level: len(questions.head(level)) for level in ("dense", "group")}
        self.vector_bytes = 4 * models.dense.llm.config.hidden_size
        longest = AnswerGrammar.compile(self.prompts, dense_answers(self.frames)).max_length
        self.answers_bytes = answers_bytes(self.settings.beam, max([longest, *(x.answer_tokens for x in self.levels)]))

    def video(self, depth: int, policy: str, video_s: float, queries: float) -> Found:
        """A search of one video of so many seconds for so many queries."""
        dense_windows = 1 if depth == 0 else len(self.hierarchy.windows(video_s))
        levels = self.levels[len(self.levels) - (depth - 1) :] if depth > 1 else []
        kind = find_policy(policy)
        asked, counts = dense_windows, []
        if levels or kind.needs_similarity:
            upper = len(self.hierarchy.upper_windows(video_s)) if levels else dense_windows
            policy = kind.make(self.settings, len(levels))
            counts = window_counts(policy, self.settings, upper, dense_windows).tolist()
            asked = counts[-1]
        flops, pairs = self._dense(dense_windows, asked, queries)
        parts, wholes = {"dense": flops}, {"dense": self._dense(dense_windows, dense_windows, queries)[0]}
        for level, shown in zip(levels, counts):
            parts[level.size], wholes[level.size] = (self._level(level, count, queries) for count in (shown, upper))
        if levels:
            vector = queries * self.upper.sparse_vector(self.frames, self.run.config.prompt.query_tokens)
            parts["vectors"], wholes["vectors"] = counts[0] * vector, upper * vector
        return Found(parts, wholes if depth else {}, self._encoded(dense_windows, asked, queries), pairs)

    def _encoded(self, windows: int, asked: int, queries: float) -> float:
        """Windows that at least one query asks, if each asks its own at random; anew for each part of the queries."""
        parts = len(query_chunks(max(round(queries), 1)))
        return parts * windows * (1 - (1 - asked / windows) ** max(queries / parts, 1))

    def _dense(self, windows: int, asked: int, queries: float) -> tuple[float, float]:
        """(FLOPs, pairs) of the dense level."""
        flops, context = self.dense, self.prefix + self.frames + self.heads["dense"]
        encoded, pairs = self._encoded(windows, asked, queries), queries * asked
        length, answer = self.rates.question_tokens, self.rates.answer_tokens
        seen_query = self.run.config.prompt.query_tokens
        needed = encoded * (flops.frame_tokens(self.frames, seen_query) + flops.prefill(1, context))
        needed += pairs * flops.tokens(length, context + (length + 1) / 2)
        needed += pairs * (flops.tokens(answer - 1, context + length) + answer * flops.head)
        return needed, pairs

    def _level(self, level: UpperLevel, shown: int, queries: float) -> float:
        """FLOPs of an upper level without its sparse vectors; every group is asked by every query."""
        flops, nodes, answer = self.upper, len(level.tree.tokens), level.answer_tokens
        groups = queries * int(level.groups(shown))
        context, length = self.prefix + level.size + self.heads["group"], self.rates.question_tokens
        needed = flops.prefill(groups, context) + groups * flops.tokens(length + nodes, context + (length + 1) / 2)
        needed += groups * (1 + nodes + answer) * flops.head
        return needed + groups * flops.tokens(answer - 1, context + length)

    def cache_bytes(self) -> float:
        """Keys and values of a block of windows, and of the pairs that are decoded."""
        config = self.run.config
        sizes, width = llama_config(config), 2 if config.model.dtype == "bfloat16" else 4
        a_token = 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * width
        context = self.prefix + self.frames + self.heads["dense"]
        pairs = config.search.decode_block * config.prompt.max_text_tokens
        return a_token * (config.search.window_block * context + pairs) / config.mesh.tensor

    def split(self, methods: list[tuple[int, str]], count: Count, measured: tuple[int, str] | None = None) -> float:
        """FLOPs of all methods on a split. What several have in common is done once for a video, where it fits.

        Args:
          measured: the method whose seconds are told: it shares only what it does of all windows.
        """
        own, shared, kept = 0.0, {}, self._kept(count)
        for method in methods:
            found = self.video(*method, count.video_s, count.queries_a_video)
            parts, wholes = found.parts, found.wholes
            once = {name for name in kept & set(wholes) if parts[name] == wholes[name]}
            if method != measured:
                once |= kept & set(wholes) & {"dense", "vectors"}
            own += sum(flops for name, flops in parts.items() if name not in once | {"vectors"})
            shared |= {name: wholes[name] for name in once}
            if "vectors" in parts and "vectors" not in once:  # a level that is read makes its own
                read = once - {"dense"}
                own += parts["vectors"] * (len(parts) - 2 > len(read))
                shared |= {(size, "vectors"): wholes["vectors"] for size in read}
        return count.videos * (own + sum(shared.values()))

    def _kept(self, count: Count) -> set[str | int]:
        """What is kept for all methods, of which each may take `SHARED_BYTES`."""
        upper = len(self.hierarchy.upper_windows(count.video_s)) if self.levels else 0
        sizes = {level.size: 4 * upper for level in self.levels} | {"vectors": self.vector_bytes * upper}
        sizes["dense"] = self.answers_bytes * len(self.hierarchy.windows(count.video_s))
        return {name for name, size in sizes.items() if count.queries_a_video * size <= SHARED_BYTES}


def _levels(prompts: PromptEncoder, sizes: tuple[int, ...], settings: SearchSettings) -> list[UpperLevel]:
    grammars = [(size, AnswerGrammar.compile(prompts, group_answers(size))) for size in sizes]
    return [UpperLevel(size, NumberTree.of(one), one.max_length, settings.readings) for size, one in grammars]


def methods_of(run: Run, max_depth: int) -> list[tuple[int, str]]:
    """(depth, policy) of each search that an evaluation of a run does, once a split and model."""
    known = known_methods(max_depth)
    served = run.config.search.depth, run.config.search.policy
    chosen = [known[name] for name in compared_methods(max_depth)]
    return chosen if served in chosen else [*chosen, served]


def question_flops(run: Run, count: Count) -> float:
    """FLOPs of a stage's own questions about held-out groups: forward passes, a third of a step's."""
    if GROUPS not in run.stage.batches:
        return 0.0
    rows = min(run.config.eval.max_rows, count.queries)
    programs = [one for one in programs_of(run) if one.name.startswith("train, groups")]
    return sum(one.flops / 3 * rows / group_rows(run.config) for one in programs)


def evaluate_work(run: Run, counts: dict[str, Count], machine: Machine, rates: Rates) -> Work:
    """The work of `evaluate`: every method that is compared by default, on test and on val, and the questions."""
    search, before = SearchCount(run, rates), 1 + run.config.eval.before
    methods, served = methods_of(run, search.max_depth), (run.config.search.depth, run.config.search.policy)
    flops, some = 0.0, [counts["val"], counts["test"]]
    for count in some:
        flops += search.split(methods, count, served)
        if run.config.eval.before and "dense" in run.stage.answers:
            flops += search.split([(0, "top_down"), (1, "top_down")], count)
    flops += before * question_flops(run, counts["test"])
    width = encoder_of(run.config)[1].feature_width
    features = sum(feature_bytes(run.config, one) for one in some)
    (program, *_) = programs_of(run)
    weights = program.parts["frozen weights"] + 2 * program.parts["trained"]
    longest = max(one.video_s for one in some) * run.config.data.fps * width
    queries = sum(one.queries for one in some)
    results = queries * len(methods) * run.config.search.top_k * 60.0  # bytes of a moment in predictions.jsonl
    device = weights + 6 * longest + search.cache_bytes()
    return Work(
        name=f"evaluate {run.stage.name}",
        flops=flops,
        utilisation=rates.search_utilisation,
        chips=machine.chips,
        read_bytes=features * len(methods) + weights * machine.hosts,
        written_bytes=results,
        disk_bytes=results,
        host_bytes=PROCESS + 2 * longest + A_QUERY * queries + (device if machine.name == "CPU" else 0),
        device_bytes=min(device, machine.memory_gib * GIB),
        # One a method; and of what they share the vectors, and what each level says of all windows.
        programs=len(methods) + (1 + len(search.levels) if search.levels else 0) - 1,
        note=f"{len(methods)} methods, {queries:,} queries; its blocks shrink until they fit",
    )
