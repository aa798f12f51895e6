"""A tokenizer that stands in its file alone is read as AutoTokenizer reads it, without what that imports."""

import subprocess
import sys

from transformers import AutoTokenizer

from revision_jax.config import resolve_path
from revision_jax.tokenizer_files import load_tokenizer

TEXTS = ["a red circle moves to the left", "From 07 to 13.", "", "Grüße, 東京 <s> </s>"]


def test_the_shipped_tokenizers_are_read_as_by_transformers():
    for name in ("llm", "clip"):
        directory = str(resolve_path(f"asset:tiny/{name}"))
        own, other = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
        assert type(own) is type(other) and own.special_tokens_map == other.special_tokens_map
        assert own(TEXTS) == other(TEXTS) and own.get_vocab() == other.get_vocab()
        assert own.decode(own(TEXTS[0])["input_ids"]) == other.decode(other(TEXTS[0])["input_ids"])


def test_it_does_not_import_pytorch():
    """Half of the time of a question about a video whose features are kept was PyTorch's."""
    own = "from revision_jax.tokenizer_files import load_tokenizer\n"
    own += f"load_tokenizer({str(resolve_path('asset:tiny/llm'))!r})"
    # The class itself imports it in transformers 5.17, and no more in later ones.
    assert _imports_pytorch(own) == _imports_pytorch("from transformers import PreTrainedTokenizerFast")


def _imports_pytorch(code: str) -> bool:
    """Whether a process that runs this has PyTorch at its end."""
    code = f"{code}\nimport sys; print('torch' in sys.modules)"
    return {"True\n": True, "False\n": False}[
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ]
