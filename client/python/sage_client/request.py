"""From what a caller passes to a job: checks of arguments, and arrays for the answer."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from .errors import invalid
from .job import Job, Operand
from .masks import read_mask
from .problem import Problem, check_choice, check_lengths, check_scale, check_shapes
from .tensors import BFLOAT16, DTYPES, FLOAT16, FLOAT32, Array, read_tensor
from .wire import LAYOUTS, PRECISIONS

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_PRECISION = "qk_int8_pv_fp16"


class Options(TypedDict, total=False):
    """Options of an attention beyond the drop-in's. See `Client.attend` for their meaning."""

    softmax_scale: float | None
    precision: str
    return_lse: bool
    seqlens_q: Sequence[int] | None
    seqlens_k: Sequence[int] | None
    dtype: str | None
    output_dtype: str | None
    prequantize: bool


def make_job(
    q: Array,
    k: Array,
    v: Array,
    mask_id: Array,
    is_causal: bool,
    tensor_layout: str,
    **options: Unpack[Options],
) -> Job:
    """Checks everything; see `Client.attend`."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"attend() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    check_choice("tensor_layout", tensor_layout, list(LAYOUTS))
    precision = options.get("precision", DEFAULT_PRECISION)
    check_choice("precision", precision, list(PRECISIONS))
    prequantize = bool(options.get("prequantize", False))
    if prequantize and precision == "fp16":
        raise invalid("prequantize", True, "False with precision fp16")
    tensors = {name: read_tensor(name, x) for name, x in (("q", q), ("k", k), ("v", v))}
    given = tensors["q"].dtype
    for name in ("k", "v"):
        if tensors[name].dtype is not given:
            raise invalid(f"{name}.dtype", tensors[name].dtype.name, f"q's, {given.name}")

    shapes = {name: tensor.bits.shape for name, tensor in tensors.items()}
    heads_q, heads_kv, seqlen_q, seqlen_k = check_shapes(**shapes, layout=tensor_layout)
    dtype = FLOAT16 if given is FLOAT32 else given
    if options.get("dtype") is not None:
        check_choice("dtype", options["dtype"], [dtype.name, BFLOAT16.name])
        dtype = DTYPES[str(options["dtype"])]
    output_dtype = options.get("output_dtype") or given.name
    check_choice("output_dtype", output_dtype, list(DTYPES))
    batch, head_dim = shapes["q"][0], shapes["q"][3]
    problem = Problem(
        batch=batch,
        num_heads_q=heads_q,
        num_heads_kv=heads_kv,
        seqlen_q=seqlen_q,
        seqlen_k=seqlen_k,
        head_dim=head_dim,
        layout=tensor_layout,
        dtype=dtype,
        output_dtype=DTYPES[output_dtype],
        precision=precision,
        is_causal=bool(is_causal),
        return_lse=options.get("return_lse", False),
        softmax_scale=check_scale(options.get("softmax_scale")),
        seqlens_q=check_lengths("seqlens_q", options.get("seqlens_q"), batch, seqlen_q),
        seqlens_k=check_lengths("seqlens_k", options.get("seqlens_k"), batch, seqlen_k),
    )
    operands: Any = {name: Operand(name, t.bits, t.dtype) for name, t in tensors.items()}
    return Job(
        problem=problem,
        **operands,
        mask=read_mask(mask_id, problem),
        out=np.empty(problem.out_shape, problem.output_dtype.bits),
        lse=np.empty(problem.lse_shape, np.float32) if problem.return_lse else None,
        request_id=uuid.uuid4().hex,
        prequantize=prequantize,
    )
