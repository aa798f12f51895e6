"""ReVisionLLM's inference in PyTorch, for tests: transformers, PEFT and a plain torch adapter, in the published order.

Base Llama; then the tensors trained beside the LoRA, with `base_model.` and then `model.` stripped from their names;
then the LoRA, merged. Written from the published description of the formats and of the adapter's arithmetic.
"""

import math
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from torch import nn

from revision_jax.prompts import AnswerGrammar


class Layer(nn.Module):
    def __init__(self, width: int, mlp: int, heads: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def mlp(self, x):
        return self.linear2(self.linear1(x).relu())


class Stack(nn.Module):
    def __init__(self, layers: int, *sizes: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(layers))


class SparseAdapter(nn.Module):
    def __init__(self, width: int, mlp: int, hidden: int, heads: int):
        super().__init__()
        self.global_rep_token, self.global_rep_pos = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.t2v_encoder, self.encoder = Stack(2, width, mlp, heads), Stack(2, width, mlp, heads)
        self.mm_projector = nn.Linear(width, hidden)

    def forward(self, video, text, text_mask):
        """[B, F, d], [B, Q, d], [B, Q] -> [B, H]."""
        place = positions(*video.shape[1:])
        for layer in self.t2v_encoder.layers:
            mixed, _ = layer.self_attn(video + place, text, text, key_padding_mask=~text_mask)
            y = video + mixed
            video = layer.norm2(y + layer.mlp(layer.norm1(y)))
        x = torch.cat([self.global_rep_token.expand(len(video), 1, -1), video], 1)
        place = torch.cat([self.global_rep_pos[None], place])
        for layer in self.encoder.layers:
            y = layer.norm1(x + layer.self_attn(x + place, x + place, x)[0])
            x = layer.norm2(y + layer.mlp(y))
        return self.mm_projector(x[:, 0])


def positions(frames: int, width: int) -> torch.Tensor:
    angle = torch.arange(1, frames + 1)[:, None] / (frames + 1e-6) * 2 * math.pi
    channel = torch.arange(width)
    angle = angle / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class Double:
    """A stage directory on its base Llama."""

    def __init__(self, base: Path, stage: Path, *, heads: int):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        trained = torch.load(stage / "non_lora_trainables.bin", weights_only=True)
        trained = {key.removeprefix("base_model.").removeprefix("model."): value for key, value in trained.items()}
        if not trained:  # frozen in this stage: named apart
            trained = torch.load(stage / "mm_projector.bin", weights_only=True)
        model.model.mm_projector = _adapter(trained, heads)
        _, unexpected = model.load_state_dict(trained, strict=False)
        assert not unexpected and len(trained) == len(model.model.mm_projector.state_dict())
        self.model = peft.PeftModel.from_pretrained(model, stage).merge_and_unload().eval()
        self.adapter = self.model.model.mm_projector

    @torch.no_grad()
    def logits(self, prefix: np.ndarray, video: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
        """Prefix [P], adapter tokens [n, H], text tokens [T] -> [T + 1, V]: row i predicts token i."""
        embed = self.model.get_input_embeddings()
        text = [embed(torch.tensor(np.asarray(ids, np.int64))) for ids in (prefix, tokens)]
        embeddings = torch.cat([text[0], video, text[1]])[None]
        return self.model(inputs_embeds=embeddings).logits[0, len(prefix) + len(video) - 1 :].numpy()

    def answer(
        self, prefix: np.ndarray, video: torch.Tensor, question: np.ndarray, grammar: AnswerGrammar
    ) -> tuple[tuple[int, int], float]:
        """The greedy answer that the grammar allows, and 1 / its mean entropy."""
        state, tokens, entropies = 0, list(question), []
        while not grammar.final[state]:
            logits = torch.tensor(self.logits(prefix, video, np.array(tokens))[-1])
            entropies.append(float(torch.distributions.Categorical(logits=logits).entropy()))
            allowed = grammar.tokens[state][grammar.tokens[state] >= 0]
            choice = int(logits[torch.tensor(allowed)].argmax())
            tokens.append(int(allowed[choice]))
            state = int(grammar.next[state, choice])
        return tuple(int(n) for n in grammar.answer[state]), 1 / float(np.mean(entropies))


def _adapter(tensors: dict[str, torch.Tensor], heads: int) -> nn.Module:
    if "model.mm_projector.weight" in tensors:
        return nn.Linear(*tensors["model.mm_projector.weight"].shape[::-1])
    hidden, width = tensors["model.mm_projector.mm_projector.weight"].shape
    return SparseAdapter(width, len(tensors["model.mm_projector.encoder.layers.0.linear1.bias"]), hidden, heads)
