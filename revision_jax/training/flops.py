"""Model FLOPs of a step, counted by hand: what the arithmetic needs, not what a program happens to execute.

A matrix costs 2 FLOPs an element and token forward, 2 more where a gradient passes through it, 2 more where it is
trained itself: 4 for a frozen matrix behind something trained, 6 for a trained one. Attention is causal (half of the
square) and costs three times its forward. The LM head counts at answer tokens only, whatever is computed. What remat
computes again does not count, so MFU from this is at most about 0.7 of the hardware's share under full remat.

Letters: B batch, P prefix tokens, F frames, n windows of a group, T text tokens.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

# bf16 FLOPs a second of a device, by the start of its `device_kind`; published, dense.
PEAK_FLOPS = {
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """bf16 FLOPs a second, None for a device that is not in the table (a CPU, say: there MFU is not told)."""
    return next((peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name)), None)


@dataclasses.dataclass(frozen=True)
class FlopCount:
    """Counts the steps of one model.

    Attributes:
      shapes: path -> shape of every parameter.
      trained: paths of those that are trained.
      prefix: P.
    """

    shapes: Mapping[str, tuple[int, ...]]
    trained: Collection[str]
    prefix: int

    def step(self, batch: Mapping[str, Any], answers: int | None = None) -> float:
        """FLOPs of an update.

        Args:
          batch: what the model gets, by name: arrays or their shapes.
          answers: tokens under the loss; default: those of `loss_mask`, which must then hold values.
        """
        answers = int(np.asarray(batch["loss_mask"]).sum()) if answers is None else answers
        rows, length = batch["video"].shape[:2]
        texts = math.prod(batch["tokens"].shape)
        llm = rows * (self.prefix + length) + texts
        frames = rows * math.prod(batch["video"].shape[1:-1])
        words = math.prod(batch["query"].shape[:2]) * length if "query" in batch else 0
        windows = rows * length
        head = "llm/lm_head/kernel"
        head = head if head in self.shapes else "llm/embed_tokens/embedding"  # tied
        total = 0.0
        for path, shape in self.shapes.items():
            matrix = math.prod(shape)
            if path.startswith("llm/layers/") and len(shape) == 3:
                total += llm * matrix * (6 if path in self.trained else 4)
            elif path == head:
                total += answers * matrix * 4
            elif path == "adapter/kernel" and "query" not in batch:
                total += frames * matrix * (4 if path in self.trained else 2)  # nothing lies before it
            elif path.startswith("sparse/") and path.endswith("kernel") and "query" in batch:
                total += self._sparse(path, matrix, frames, words, windows)
        return total + self._attention(rows, length, batch["tokens"].shape)

    def _sparse(self, path: str, matrix: int, frames: int, words: int, windows: int) -> float:
        """A matrix of the sparse adapter: it reads frames, words of the query, or one token a window."""
        if "mm_projector" in path:
            seen = windows * matrix
        elif "t2v_encoder/in_proj" in path:
            seen = (frames + 2 * words) * matrix / 3  # q of the frames, k and v of the words
        else:
            seen = (frames + ("t2v" not in path) * windows) * matrix
        return seen * (6 if path in self.trained else 2)

    def _attention(self, rows: int, length: int, tokens: tuple[int, ...]) -> float:
        """Causal attention of the language model, forward and twice that backward."""
        q_proj = self.shapes.get("llm/layers/self_attn/q_proj/kernel")
        if q_proj is None:
            return 0.0
        layers, _, width = q_proj
        texts, text = (1, tokens[1]) if len(tokens) == 2 else tokens[1:]
        context = self.prefix + length
        pairs = context**2 / 2 + texts * (text * context + text**2 / 2)
        return 3 * 4 * rows * pairs * width * layers
