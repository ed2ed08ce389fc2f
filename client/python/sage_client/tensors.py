"""Tensors of the caller, numpy or torch, as numpy views of their bits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import wire
from .errors import InvalidArgumentError, invalid

Array = Any  # numpy arrays of several dtypes; torch tensors; what the caller passed


@dataclass(frozen=True)
class DType:
    """An element type: its name, number on the wire, and the numpy type that holds its bits."""

    name: str
    wire: int
    bits: np.dtype[Any]


FLOAT16 = DType("float16", wire.FLOAT16, np.dtype("<f2"))
BFLOAT16 = DType("bfloat16", wire.BFLOAT16, np.dtype("<u2"))
FLOAT32 = DType("float32", wire.FLOAT32, np.dtype("<f4"))
INT8 = DType("int8", wire.INT8, np.dtype("i1"))  # `sage1` values, never the caller's
DTYPES = {dtype.name: dtype for dtype in (FLOAT16, BFLOAT16, FLOAT32)}


@dataclass(frozen=True)
class HostTensor:
    """Elements in host memory, of any strides; bfloat16 as the uint16 of its bits."""

    bits: np.ndarray[Any, Any]
    dtype: DType


def _torch() -> Any:
    """The torch module if the caller has imported it: without it, nothing can be a tensor."""
    return sys.modules.get("torch")


def is_torch(x: Array) -> bool:
    """Whether x is a torch tensor."""
    torch = _torch()
    return torch is not None and isinstance(x, torch.Tensor)


def read_tensor(field: str, x: Array) -> HostTensor:
    """The elements of a numpy array or torch tensor, without a copy where they are in host memory.

    TypeError for anything else; InvalidArgumentError for another dtype, or for a tensor that wants
    a gradient, which no server could give.
    """
    if is_torch(x):
        return _read_torch(field, x)
    if isinstance(x, np.ndarray):
        return _read_numpy(field, x)
    raise TypeError(f"{field}: a {type(x).__name__}; takes a numpy array or a torch tensor")


def _read_torch(field: str, x: Any) -> HostTensor:
    torch = _torch()
    if x.requires_grad and torch.is_grad_enabled():
        raise InvalidArgumentError(
            f"{field}: requires a gradient, and there is no backward pass; use torch.no_grad()"
        )
    dtype = DTYPES.get(str(x.dtype).rpartition(".")[2])
    if dtype is None:
        raise invalid(f"{field}.dtype", x.dtype, "float16, bfloat16 and float32")
    host = x.detach().cpu()
    if dtype is BFLOAT16:  # which numpy does not have
        return HostTensor(host.view(torch.int16).numpy().view(np.uint16), dtype)
    return HostTensor(host.numpy(), dtype)


def _read_numpy(field: str, x: np.ndarray[Any, Any]) -> HostTensor:
    dtype = DTYPES.get(x.dtype.name)
    if dtype is None:
        raise invalid(f"{field}.dtype", x.dtype, "float16, float32 and bfloat16 of ml_dtypes")
    if dtype is BFLOAT16:
        return HostTensor(x.view(np.uint16), dtype)
    return HostTensor(x.astype(dtype.bits, copy=False), dtype)  # other byte orders are converted


def open_output(field: str, x: Array) -> HostTensor:
    """The memory of an array or tensor that is to be written to, of any strides.

    TypeError for anything else; InvalidArgumentError where it cannot be written to from here.
    """
    if is_torch(x) and x.device.type != "cpu":
        raise invalid(f"{field}.device", x.device, "cpu")
    if is_torch(x) and x.requires_grad:
        raise invalid(field, "a tensor that requires a gradient", "one that does not")
    tensor = read_tensor(field, x)
    if not tensor.bits.flags.writeable:
        raise invalid(field, "an array that is read-only", "one that can be written to")
    if not is_torch(x) and not np.shares_memory(tensor.bits, x):
        raise invalid(f"{field}.dtype", x.dtype.str, "one of this machine's byte order")
    return tensor


@dataclass(frozen=True)
class Kind:
    """What a caller's arrays are: torch tensors on a device, or, without one, numpy's."""

    device: Any

    def array(self, bits: np.ndarray[Any, Any], dtype: DType) -> Array:
        """`bits` as an array of this kind."""
        if self.device is not None:
            torch = _torch()
            if dtype is BFLOAT16:
                return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).to(self.device)
            return torch.from_numpy(bits).to(self.device)
        if dtype is BFLOAT16:
            import ml_dtypes

            return bits.view(ml_dtypes.bfloat16)
        return bits


def kind_of(x: Array) -> Kind:
    """Of an array that `read_tensor` takes."""
    return Kind(x.device if is_torch(x) else None)


def mask_values(mask: Array) -> np.ndarray[Any, Any]:
    """A mask given as a numpy array, torch tensor or nested lists, in host memory."""
    return np.asarray(mask.detach().cpu().numpy() if is_torch(mask) else mask)


def widen(tensor: HostTensor) -> np.ndarray[Any, Any]:
    """The elements as float32, exactly."""
    if tensor.dtype is BFLOAT16:
        return (tensor.bits.astype(np.uint32) << 16).view(np.float32)
    return tensor.bits.astype(np.float32, copy=False)


def narrow(field: str, x: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Bits of float32 elements rounded to the nearest, ties to even.

    InvalidArgumentError for a finite value that float16 cannot hold.
    """
    if dtype is FLOAT32:
        return x
    if dtype is BFLOAT16:
        bits = np.ascontiguousarray(x).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        quiet_nan = (bits >> 16) | 0x40  # rounding could carry a NaN over to infinity or zero
        return np.where(np.isnan(x), quiet_nan, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        narrowed = x.astype(np.float16)
    overflow = np.isinf(narrowed) & np.isfinite(x)
    if overflow.any():
        raise invalid(
            field,
            f"{x[overflow][0]:g}, which float16 cannot hold",
            "up to 65504, or dtype='bfloat16'",
        )
    return narrowed
