"""The drop-in: one function, with the public Sparse_SageAttention API's signature."""

from __future__ import annotations

from functools import cache
from typing import Any

from .client import Client
from .tensors import Array


def sparse_sageattn(
    q: Array,
    k: Array,
    v: Array,
    mask_id: Array = None,
    is_causal: bool = False,
    tensor_layout: str = "HND",
) -> Any:
    """Block-sparse SageAttention, computed by the server that SAGE_SERVER names.

    Args:
        q: [B, H, S, D], or [B, S, H, D] with tensor_layout "NHD"; float16, bfloat16 or float32; a
            torch tensor on any device, or a numpy array.
        k: the same, also with fewer heads, that divide q's, and another S.
        v: k's shape.
        mask_id: 1 for each block of 128 queries by 64 keys to compute, 0 to skip it:
            [ceil(Sq/128), ceil(Sk/64)], with batch and heads in front where they differ.
            None computes all.
        is_causal: row i sees keys j <= i + Sk - Sq.
        tensor_layout: "HND" or "NHD".

    Returns:
        The output, as q: its shape, dtype, layout, device, and kind of array.

    Raises what `Client.attend` does. SAGE_SERVER, and what `Credentials.from_environment` reads,
    count at the first call; make a `Client` for anything else.

    """
    return default_client().attend(q, k, v, mask_id, is_causal, tensor_layout).out


@cache
def default_client() -> Client:
    """The client of `sparse_sageattn`, made by the first call."""
    return Client()
