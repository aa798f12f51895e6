"""The tiny tokenizer: byte-pair merges over the Shapes world's language, whole words and two-digit numbers as tokens.

A word that was never seen falls apart into letters, as in any BPE; nothing becomes an unknown token unless its
letters are outside ASCII.
"""

import string

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from revision_jax import prompts
from revision_jax.data.builders.shapes_events import COLORS, SHAPES, TEMPLATES
from revision_jax.pretrain.attributes import WORDS

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
# Words of questions and answers of every level and stage, of captions, and of lookups (see lookup_lm.py).
LANGUAGE = (
    "USER: ASSISTANT: From to Not Present In video Yes No Does happen in the video? Answer yes or no. "
    "Describe this frame. "
    "During which frames can we see video In which . , ? : a an the at of and facing Find still there is nothing "
    "westward eastward northward southward dextral sinistral swelling dwindling emerging fading"
)


def corpus() -> list[str]:
    """Every word the tiny parts should know as one token, each often enough to be merged."""
    sentences = [form.format(a="a", b="an") for forms in TEMPLATES.values() for form in forms]
    numbers = [f"{n:02d}" for n in range(100)]
    lines = [LANGUAGE, prompts.VICUNA_SYSTEM, *sentences, *WORDS, *COLORS, *SHAPES, *numbers, *string.ascii_letters]
    return lines * 2


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer (a second) and wraps it for transformers."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.printable.strip()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
