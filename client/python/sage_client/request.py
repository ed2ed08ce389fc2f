"""From what a caller passes to a job: checks of arguments, and arrays for the answer."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from .errors import invalid
from .job import Bits, Job, Operand
from .masks import KeptMask, read_mask
from .problem import (
    Problem,
    check_choice,
    check_lengths,
    check_priority,
    check_scale,
    check_shapes,
)
from .tensors import (
    BFLOAT16,
    DTYPES,
    FLOAT16,
    FLOAT32,
    Array,
    HostTensor,
    Kind,
    open_output,
    read_tensor,
)
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
    priority: int


def make_job(
    q: Array | Operand,
    k: Array | Operand,
    v: Array | Operand,
    mask_id: Array | KeptMask,
    is_causal: bool,
    tensor_layout: str,
    kind: Kind,
    *,
    out: Array = None,
    keeps_output: bool = False,
    **options: Unpack[Options],
) -> Job:
    """Checks everything; see `Client.attend`.

    Operands, and a KeptMask, are at the server; their handles come later.
    """
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"attend() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    check_choice("tensor_layout", tensor_layout, list(LAYOUTS))
    precision = options.get("precision", DEFAULT_PRECISION)
    check_choice("precision", precision, list(PRECISIONS))
    prequantize = bool(options.get("prequantize", False))
    if prequantize and (isinstance(q, Operand) or isinstance(k, Operand)):
        raise invalid("prequantize", True, "False with a resident q or k")
    if prequantize and precision == "fp16":
        raise invalid("prequantize", True, "False with precision fp16")
    dtype = options.get("dtype")
    operands = [
        x if isinstance(x, Operand) else read_operand(field, x, tensor_layout, dtype)
        for field, x in (("q", q), ("k", k), ("v", v))
    ]
    q_operand, *kv_operands = operands
    for operand in kv_operands:
        got, allowed = operand.dtype, q_operand.dtype
        if operand.resident or q_operand.resident:
            got, allowed = operand.wire_dtype, q_operand.wire_dtype
        if got is not allowed:
            raise invalid(f"{operand.field}.dtype", got.name, f"q's, {allowed.name}")
    shapes = {operand.field: operand.bits.shape for operand in operands}
    heads_q, heads_kv, seqlen_q, seqlen_k = check_shapes(**shapes, layout=tensor_layout)
    given = None if out is None else open_output("out", out)
    output_dtype = options.get("output_dtype") or (given or q_operand).dtype.name
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
        dtype=q_operand.wire_dtype,
        output_dtype=DTYPES[output_dtype],
        precision=precision,
        is_causal=bool(is_causal),
        return_lse=options.get("return_lse", False),
        softmax_scale=check_scale(options.get("softmax_scale")),
        seqlens_q=check_lengths("seqlens_q", options.get("seqlens_q"), batch, seqlen_q),
        seqlens_k=check_lengths("seqlens_k", options.get("seqlens_k"), batch, seqlen_k),
        priority=check_priority(options.get("priority", 0)),
    )
    if given is not None:
        _check_output(given, problem, operands)
    return Job(
        problem=problem,
        q=operands[0],
        k=operands[1],
        v=operands[2],
        mask=read_mask(mask_id, problem),
        out=None if keeps_output else _output_bits(given, problem),
        lse=np.empty(problem.lse_shape, np.float32) if problem.return_lse else None,
        kind=kind,
        request_id=uuid.uuid4().hex,
        prequantize=prequantize,
    )


def _check_output(given: HostTensor, problem: Problem, operands: Sequence[Operand]) -> None:
    if given.bits.shape != problem.out_shape:
        raise invalid("out.shape", list(given.bits.shape), f"q's, {list(problem.out_shape)}")
    if given.dtype is not problem.output_dtype:
        raise invalid("out.dtype", given.dtype.name, f"output_dtype, {problem.output_dtype.name}")
    for operand in operands:  # which a retry would send again
        if not operand.resident and np.may_share_memory(given.bits, operand.bits):
            raise invalid("out", f"memory of {operand.field}", "memory of its own")


def _output_bits(given: HostTensor | None, problem: Problem) -> Bits:
    if given is not None:
        return given.bits
    return np.empty(problem.out_shape, problem.output_dtype.bits)


def read_operand(field: str, x: Array, layout: str, dtype: str | None) -> Operand:
    """A caller's tensor; float32 is to travel as float16, or as `dtype` says."""
    tensor = read_tensor(field, x)
    wire_dtype = FLOAT16 if tensor.dtype is FLOAT32 else tensor.dtype
    if dtype is not None:
        check_choice("dtype", dtype, [wire_dtype.name, BFLOAT16.name])
        wire_dtype = DTYPES[dtype]
    return Operand(field, tensor.bits, tensor.dtype, wire_dtype, layout)
