"""A tokenizer that counts like Llama's for the benchmarks: a token a word, a digit, a punctuation mark; no download."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from revision_jax.prompts import NOT_PRESENT, PromptEncoder, PromptTemplate, group_answer, question, span_answer

EVENTS = "a person opens the door of car and looks around"


def make_prompts(max_text_tokens: int = 96) -> PromptEncoder:
    """Prompts with Vicuna's system text. Words beside those of the prompts and of `EVENTS` are one unknown token."""
    template = PromptTemplate()
    texts = [template.before_video, NOT_PRESENT, span_answer(1, 2), group_answer(1, 2), EVENTS]
    texts += [template.after_video(question(EVENTS, level)) for level in ("dense", "group", "sparse", "retrieval")]
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)} | set("0123456789"))
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return PromptEncoder(fast, template, max_text_tokens)
