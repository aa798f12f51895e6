"""Speed of greedy answers under the grammar: the dense level of a search beside transformers' `generate`.

    python -m revision_jax.benchmarks.span_decoding --repeat 5

The shipped LLM and projector, windows of 64 frames of a Shapes video, `--queries` questions about each window. The peer
gets every pair of window and question as a row of embeddings, padded on the left, `--batch` rows a call of `generate`,
and a `prefix_allowed_tokens_fn` that walks the same answers. Both choose among spans alone: `Not Present`, after whose
first token ours stops, is no answer here, for the untrained LLM would give no other. Before the clock all answers must
be equal, token by token. One JSON line.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax import config as configs
from revision_jax.benchmarks.machine import machine
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns
from revision_jax.config import resolve_path
from revision_jax.data.builders import shapes_world as world
from revision_jax.data.builders.shapes_events import COLORS, SHAPES, noun_phrase
from revision_jax.data.video.extraction import Extractor
from revision_jax.interop.adapter import load_dense_adapter, load_projector
from revision_jax.interop.llama import load_llama
from revision_jax.models.grounder import Grounder
from revision_jax.prompts import NOT_PRESENT, AnswerGrammar, PromptEncoder, dense_answers
from revision_jax.runs.base import make_prompts
from revision_jax.search.answers.asking import Asking
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.levels.dense import DenseInputs, search_windows
from revision_jax.search.packing.padding import asked_shape, common_start, pack_questions, pack_windows
from revision_jax.search.settings import SearchSettings

LLM, PROJECTOR, ENCODER = (f"asset:tiny/{name}" for name in ("llm", "projector.safetensors", "clip"))
CONFIG = "configs/stage1.py"
FRAMES = 64  # of a window, one a second


class Asked(NamedTuple):
    """What both programs get.

    Attributes:
      windows: features `[W, F, D]` float16.
      sentences: the questions, the same about every window.
      grammar: of the answers.
      prompts: of the LLM.
    """

    windows: np.ndarray
    sentences: list[str]
    grammar: AnswerGrammar
    prompts: PromptEncoder

    @property
    def pairs(self) -> int:
        return len(self.windows) * len(self.sentences)


def make_asked(windows: int, queries: int) -> Asked:
    """Windows of a video that no training has seen, and questions about shapes, some of which it shows."""
    video = world.make_video("test", 0, duration_s=float(FRAMES * windows))
    pictures = (video.frames(FRAMES * n + np.arange(FRAMES)) for n in range(windows))
    features = Extractor(resolve_path(ENCODER), 1.0).encode_frames(pictures)
    things = itertools.islice(itertools.product(SHAPES, COLORS), queries)
    sentences = [f"{noun_phrase(color, shape)} moves to the left" for shape, color in things]
    prompts = make_prompts(configs.load(CONFIG))
    spans = {text: span for text, span in dense_answers(FRAMES).items() if text != NOT_PRESENT}
    grammar = AnswerGrammar.compile(prompts, spans)
    return Asked(features.reshape(windows, FRAMES, -1), sentences, grammar, prompts)


def our_answers(asked: Asked) -> Callable[[], np.ndarray]:
    """The dense level of a search, in the shapes that a search takes: a call -> states of the grammar `[W, Q]`."""
    settings, prompts = SearchSettings.of(configs.load(CONFIG).search), asked.prompts
    windows, frames, width = asked.windows.shape
    queries = len(asked.sentences)
    grounder = Grounder(load_llama(resolve_path(LLM)), load_dense_adapter(resolve_path(PROJECTOR)))
    graphdef, state = nnx.split(grounder)
    block, batch = asked_shape(settings.window_block, settings.query_batch, 1, queries, all_asked=True)
    table = pack_windows(np.arange(windows * frames).reshape(windows, frames), block)
    texts = [prompts.encode_question(sentence) for sentence in asked.sentences]
    head = common_start([prompts.encode_question(sentence) for sentence in ("a red circle", "the end")])
    packed = pack_questions(texts, head, 0, batch), asked.windows.reshape(-1, width)
    questions, features = jax.tree.map(jnp.asarray, packed)
    inputs = DenseInputs(jnp.asarray(prompts.prefix), Grammar.of(asked.grammar), features, table, questions)
    chosen = np.zeros((len(questions.tokens), *table.valid.shape), bool)
    chosen[:queries] = table.valid
    asking = Asking(asked.grammar.max_length, batch, settings.decode_block)
    search = jax.jit(lambda state, inputs, chosen: search_windows(nnx.merge(graphdef, state), inputs, chosen, asking))
    return lambda: np.asarray(search(state, inputs, chosen).answers.state)[:queries, :windows, 0].T


class Trie:
    """The grammar as transformers wants it: the tokens allowed behind those of an answer so far."""

    def __init__(self, grammar: AnswerGrammar):
        self._children = [
            {token: state for token, state in zip(tokens, following) if token >= 0}
            for tokens, following in zip(grammar.tokens.tolist(), grammar.next.tolist())
        ]
        self._allowed = [list(children) for children in self._children]

    def state(self, tokens: list[int]) -> int:
        """Of the grammar, behind these tokens."""
        state = 0
        for token in tokens:
            state = self._children[state][token]
        return state

    def __call__(self, row: int, tokens: Any) -> list[int]:
        """`prefix_allowed_tokens_fn`: a row's number, its answer so far."""
        return self._allowed[self.state(tokens.tolist())]


def generated_answers(asked: Asked, batch: int) -> Callable[[], np.ndarray]:
    """transformers' `generate`: a call -> states of the grammar `[W, Q]`."""
    import torch
    import transformers

    llm = transformers.LlamaForCausalLM.from_pretrained(resolve_path(LLM), dtype=torch.float32).eval()
    projector = {name: torch.tensor(x) for name, x in load_projector(resolve_path(PROJECTOR)).items()}
    prompts, trie, embed = asked.prompts, Trie(asked.grammar), llm.get_input_embeddings()
    texts = [torch.tensor(prompts.encode_question(sentence)) for sentence in asked.sentences]
    prefix, windows = torch.tensor(prompts.prefix), torch.tensor(asked.windows, dtype=torch.float32)
    pairs = list(itertools.product(range(len(windows)), range(len(texts))))

    def rows(some: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        head = embed(prefix)
        frames = torch.nn.functional.linear(windows[[window for window, _ in some]], **projector)
        whole = [torch.cat([head, own, embed(texts[query])]) for own, (_, query) in zip(frames, some)]
        length = max(map(len, whole))
        embedded = [torch.nn.functional.pad(row, (0, 0, length - len(row), 0)) for row in whole]
        seen = [torch.arange(length) >= length - len(row) for row in whole]
        return {"inputs_embeds": torch.stack(embedded), "attention_mask": torch.stack(seen).long()}

    @torch.inference_mode()
    def answer() -> np.ndarray:
        states = []
        for start in range(0, len(pairs), batch):
            found = llm.generate(
                **rows(pairs[start : start + batch]), prefix_allowed_tokens_fn=trie, do_sample=False, num_beams=1,
                max_new_tokens=asked.grammar.max_length, pad_token_id=prompts.pad_id, eos_token_id=prompts.eos_id,
            )  # fmt: skip
            states += [trie.state(row) for row in found.tolist()]
        return np.array(states).reshape(len(windows), len(texts))

    return answer


def check_equal(asked: Asked, ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many different answers there are; raises ValueError where the two programs' answers `[W, Q]` differ.

    A state of the grammar names the tokens that lead to it.
    """
    spans = asked.grammar.answer
    different = np.argwhere(ours != theirs)
    if len(different):
        window, query = different[0]
        told = f"{spans[ours[window, query]]} and {spans[theirs[window, query]]} of window {window}, question {query}"
        raise ValueError(f"{len(different)} of {ours.size} answers differ: {told}; expected equal ones")
    return len(np.unique(ours))


def measure(windows: int, queries: int, batch: int, repeat: int, rest_s: float) -> tuple[list[dict[str, Any]], int]:
    """Rows of the comparison, and how many different answers were given."""
    asked = make_asked(windows, queries)
    ours, theirs = our_answers(asked), generated_answers(asked, batch)
    answers = check_equal(asked, ours(), theirs())
    programs = {"ours": Program(ours, asked.pairs), "transformers' generate": Program(theirs, asked.pairs)}
    work = f"spans of windows under the grammar, {queries} question{'s' * (queries > 1)} a window"
    return compare(Claim(work, "ms an answer", "ours"), take_turns(programs, repeat, rest_s)), answers


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--windows", type=int, default=32, help="of 64 frames (default: %(default)s)")
    add("--queries", default="1,8", help="questions about each window, with commas (default: %(default)s)")
    add("--batch", type=int, default=32, help="rows of a call of `generate` (default: %(default)s)")
    add("--repeat", type=int, default=5, help="rounds in which the two take turns (default: %(default)s)")
    add("--rest", type=float, default=0.2, help="seconds of rest before each turn (default: %(default)s)")
    args = parser.parse_args(argv)
    report = {"benchmark": "span_decoding", "windows": args.windows, "different_answers": {}, **machine(), "beside": []}
    for queries in map(int, args.queries.split(",")):
        rows, answers = measure(args.windows, queries, args.batch, args.repeat, args.rest)
        report["beside"] += rows
        report["different_answers"][str(queries)] = answers
    print(json.dumps(report))


if __name__ == "__main__":
    main()
