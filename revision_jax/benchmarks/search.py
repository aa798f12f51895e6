"""How fast the search is: many queries on one long video, against a plain program of the released procedure.

    python -m revision_jax.benchmarks.search --compare                      # 1 hour, 64 queries, 8 layers x 512
    python -m revision_jax.benchmarks.search --compare --shape 7b           # Llama-2-7B in bfloat16: a GPU
    python -m revision_jax.benchmarks.search --queries 8 --policies top_down

Weights and features are random: it is about time, tokens and memory. The adapter has its full size (768, 2048), windows
are MAD's (125 s, 250 frames of 5 a second, upper windows every 25 s in groups of 100 and 33). Ours answers all queries;
the plain program (`plain.py`) is timed on `--plain_queries` and extrapolated, which its part says. Prints one JSON
line.
"""

import argparse
import json
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax import config as configs
from revision_jax.benchmarks import plain
from revision_jax.benchmarks.words import make_prompts
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.evaluation.peak import peak_memory
from revision_jax.hierarchy import Hierarchy
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.models.names import PRECISIONS
from revision_jax.models.precision import float32_products
from revision_jax.parallel.mesh import make_mesh
from revision_jax.prompts import PromptEncoder
from revision_jax.search.counting import Flops
from revision_jax.search.memory import Memory
from revision_jax.search.models import Models
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.policies import find_policy, policy_names
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings
from revision_jax.units import GIB

FPS, QUERY_TOKENS = 5.0, 16
DENSE_BATCH = 16  # of the plain program
# Language model, its dtype, width of the features, of the sparse adapter's MLP. `tiny` is for counts, not for seconds.
SHAPES = {
    "small": (LlamaConfig(32000, 512, 1376, 8, 8, 8, 64), jnp.float32, 768, 2048),
    "7b": (LlamaConfig(32000, 4096, 11008, 32, 32, 32, 128), jnp.bfloat16, 768, 2048),
    "tiny": (LlamaConfig(32000, 32, 48, 2, 2, 2, 16), jnp.float32, 16, 16),
}
# bf16 peak of a device, TFLOP/s, for the share that prefill reaches (NVIDIA data sheet, dense).
PEAKS = {"H100": 989.4, "H200": 989.4}


def make_hierarchy(upper_scale: float = 1.0) -> Hierarchy:
    """MAD's windows: at stride 1/2, and 1/5 for the upper levels."""
    return Hierarchy(125.0, 250, 0.5, 0.2, (100, 33), upper_scale)


def make_settings(**changes) -> SearchSettings:
    """The settings of the MAD preset with some fields changed."""
    return SearchSettings.of(configs.load("configs/stage1.py:mad").search, **changes)


def make_models(shape: str, seed: int = 0, precision: str = "high") -> Models:
    """Random grounders of the dense and the upper levels; they share the language model, as those of a run do."""
    config, dtype, width, mlp = SHAPES[shape]
    rngs = nnx.Rngs(seed)
    llm = Llama(config, compute=Compute(dtype, dtype), rngs=rngs)
    sparse = SparseAdapter(width, config.hidden_size, rngs=rngs, mlp_width=mlp, precision=precision)
    dense = Grounder(llm, DenseAdapter(width, config.hidden_size, rngs=rngs))
    return Models(dense, Grounder(llm, sparse=sparse, window_chunk=16))


def make_video(shape: str, seconds: float, seed: int = 0) -> VideoFeatures:
    """A video of random features, `[N, D]` float16."""
    features = np.random.default_rng(seed).normal(size=(int(seconds * FPS), SHAPES[shape][2])).astype(np.float16)
    return VideoFeatures(features, seconds, FPS)


def make_queries(shape: str, count: int, seed: int = 1) -> Sentences:
    """Sentences with random token features and holistic features."""
    rng = np.random.default_rng(seed)
    texts = [f"a person opens the door of car {i} and looks around" for i in range(count)]
    tokens = rng.normal(size=(count, QUERY_TOKENS, SHAPES[shape][2])).astype(np.float32)
    return Sentences(texts, tokens, np.ones((count, QUERY_TOKENS), bool), tokens.mean(axis=1))


def make_searcher(
    models: Models, prompts: PromptEncoder, settings: SearchSettings, memory_gib: float = 0.0, upper_scale: float = 1.0
) -> Searcher:
    return Searcher(models, prompts, make_hierarchy(upper_scale), settings, make_mesh(), Memory(memory_gib))


def time_ours(searcher: Searcher, policy: str, video: VideoFeatures, sentences: Sentences) -> dict:
    """One search by a policy, as deep as it searches, compiled before on the same shapes."""
    searcher, most = searcher.fitted_to(sentences.texts), find_policy(policy).most_depth
    depth = 3 if most is None else min(most, 3)
    with jax.set_mesh(searcher.mesh):
        started = time.perf_counter()
        traced, need = searcher.trace(video, sentences, depth=depth, policy=policy)
        # The search below finds this program in the cache that `main` turned on.
        temporary = traced.lower().compile().memory_analysis().temp_size_in_bytes
        compiled = time.perf_counter() - started
        cost = searcher.search(video, sentences, depth=depth, policy=policy).cost
    check_compiled(searcher)
    return {
        "policy": policy,
        "seconds": cost.seconds,
        "queries_per_s": cost.queries / cost.seconds,
        "seconds_per_query": cost.seconds / cost.queries,
        "llm_tokens_per_query": cost.llm_tokens / cost.queries,
        "sparse_vectors_per_query": cost.levels[0].windows / cost.queries if cost.levels else 0,
        "dense_pairs_per_query": cost.pairs / cost.queries,
        "tflops": cost.flops / 1e12,
        "tflop_per_s": cost.flops / 1e12 / cost.seconds,
        "compile_s": compiled,
        "memory_gib": {"counted": need.total / GIB, "temporary": temporary / GIB},
    }


def check_compiled(searcher: Searcher) -> None:
    """Raises RuntimeError where a program was compiled again for shapes that it had met before."""
    if searcher.compile_count > len(searcher.shapes):
        raise RuntimeError(f"{searcher.compile_count} programs were compiled for {len(searcher.shapes)} shapes.")


def time_plain(
    models: Models, prompts: PromptEncoder, footage: VideoFeatures, sentences: Sentences, count: int
) -> dict:  # fmt: skip
    """The plain program on the first `count` queries; its shapes are compiled before."""
    windows = VideoWindows.of(make_hierarchy(), footage, 3)
    parts = [nnx.split(grounder) for grounder in models.both]
    prefix, steps = jnp.asarray(prompts.prefix), plain.ANSWER_TOKENS
    dense = jax.jit(lambda state, q, v: plain.dense_answers(nnx.merge(parts[0][0], state), prefix, q, v, steps))
    group = jax.jit(lambda state, q, v: plain.group_answer(nnx.merge(parts[1][0], state), prefix, q, v, steps))
    video, runs, compiled = jnp.asarray(footage.features), [], {}

    def call(program, *arguments):
        key = program, arguments[-1].shape
        if key not in compiled:
            started = time.perf_counter()
            compiled[key] = program.lower(*arguments).compile()
            call.compile_s += time.perf_counter() - started
        return compiled[key](*arguments)

    for i in range(count):
        question = jnp.asarray(prompts.encode_question(sentences.texts[i]))
        tokens, mask = jnp.asarray(sentences.tokens[i]), jnp.asarray(sentences.mask[i])
        call.compile_s = 0.0
        started = time.perf_counter()
        counted = plain.search_query(
            lambda v: call(dense, parts[0][1], question, v),  # noqa: B023
            lambda v: call(group, parts[1][1], plain.Asked(question, tokens, mask), v),  # noqa: B023
            video, plain.Frames(windows.dense_frames, windows.upper_frames), dense_batch=DENSE_BATCH,
            text_tokens=len(prefix) + len(question) + steps,
        )  # fmt: skip
        runs.append((time.perf_counter() - started - call.compile_s, counted))
        print(f"plain query {i}: {runs[-1][0]:.1f} s and {call.compile_s:.1f} s to compile", file=sys.stderr)
    seconds_each = float(np.mean([run[0] for run in runs]))
    counted = runs[0][1]
    return {
        "policy": "plain program of the released procedure",
        "timed_queries": count,
        "extrapolated_to": len(sentences),
        "seconds": seconds_each * len(sentences),
        "seconds_per_query": seconds_each,
        "queries_per_s": 1.0 / seconds_each,
        "llm_tokens_per_query": counted.tokens,
        "sparse_vectors_per_query": counted.sparse_vectors,
        "upper_calls_per_query": counted.calls,
        "dense_pairs_per_query": len(windows.dense_frames),
    }


def prefill_rate(grounder: Grounder, prompts: PromptEncoder, rows: int = 8, repeats: int = 3) -> dict:
    """TFLOP/s of prefilling dense windows, and the share of the device's bf16 peak where it is known."""
    graphdef, state = nnx.split(grounder)
    prefix = jnp.asarray(prompts.prefix)
    program = jax.jit(lambda state, video: nnx.merge(graphdef, state).encode_windows(prefix, video)[0])
    video = jnp.zeros((rows, 250, grounder.visual_width), jnp.float16)
    jax.block_until_ready(program(state, video))
    started = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(program(state, video))
    rate = repeats * Flops(grounder).prefill(rows, len(prefix) + 250) / (time.perf_counter() - started) / 1e12
    kind = jax.devices()[0].device_kind
    peak = next((value for name, value in PEAKS.items() if name in kind), None)
    return {"tflop_per_s": rate, "percent_of_bf16_peak": None if peak is None else 100.0 * rate / peak}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="also time the plain program")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="language model (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the video (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=64, help="queries on it (default: %(default)s)")
    parser.add_argument("--plain_queries", type=int, default=1, help="that the plain program is timed on")
    policies = f"some of {', '.join(policy_names())} (default: %(default)s)"
    parser.add_argument("--policies", default="top_down,bottom_up", help=policies)
    parser.add_argument("--keep", default="0.8,0.55", help="what each upper level sends down (default: %(default)s)")
    says = "precision of all float32 products (default: high in the sparse adapter, highest elsewhere)"
    parser.add_argument("--float32", choices=PRECISIONS, help=says)
    parser.add_argument("--memory_gib", type=float, default=0.0, help="what a device may use")
    args = parser.parse_args(argv)
    with float32_products(args.float32 or "highest"):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Times what `main` was asked to time; prints it as JSON."""
    # What is compiled ahead is found again by the timed call.
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="revision_jax_benchmark_"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    seconds, prompts = args.hours * 3600.0, make_prompts()
    models = make_models(args.shape, precision=args.float32 or "high")
    video = make_video(args.shape, seconds)
    sentences = make_queries(args.shape, args.queries)
    keep = tuple(float(part) for part in args.keep.split(","))
    settings = make_settings(depth=3, keep=keep, query_batch=4, window_block=64, decode_block=64)
    result = {
        "benchmark": "search", "shape": args.shape, "hours": args.hours, "queries": args.queries,
        "float32": args.float32, "device": jax.devices()[0].device_kind, "devices": jax.device_count(),
        "prefill": None, "runs": [],
    }  # fmt: skip
    result["prefill"] = prefill_rate(models.dense, prompts)
    if args.compare:
        result["runs"].append(time_plain(models, prompts, video, sentences, args.plain_queries))
    for policy in args.policies.split(","):
        searcher = make_searcher(models, prompts, settings, args.memory_gib)
        ours = time_ours(searcher, policy, video, sentences)
        if args.compare:
            ours["times_as_fast"] = result["runs"][0]["seconds_per_query"] / ours["seconds_per_query"]
        result["runs"].append(ours)
        print(json.dumps(ours), file=sys.stderr)  # what was measured is not lost if the rest is stopped
    print(json.dumps(result | peak_memory(make_mesh())))


if __name__ == "__main__":
    main()
