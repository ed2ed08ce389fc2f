"""The messages of `sage.v1`, and the frames of its streams.

Message classes are made from the descriptor set that the build compiled from proto/. They live in a
descriptor pool of their own: the contract restates three messages of google.rpc, which would
collide with those of googleapis-common-protos in the default pool.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Buffer = Union[bytes, memoryview]

_DESCRIPTORS = Path(__file__).with_name("sage_v1.binpb")


def _load_pool() -> Any:
    files: Any = descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    pool: Any = descriptor_pool.DescriptorPool()
    for file in files.file:  # in order of their imports
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load_pool()


def _message(name: str) -> Any:
    descriptor = _pool.FindMessageTypeByName(name)
    factory: Any = message_factory
    if hasattr(factory, "GetMessageClass"):
        return factory.GetMessageClass(descriptor)
    return factory.MessageFactory(_pool).GetPrototype(descriptor)  # protobuf before 4.22


def _enum(name: str) -> Any:
    values = _pool.FindEnumTypeByName(f"sage.v1.{name}").values_by_name
    return {value: values[value].number for value in values}


AttendHeader = _message("sage.v1.AttendHeader")
AttendRequest = _message("sage.v1.AttendRequest")
AttendResponse = _message("sage.v1.AttendResponse")
AttendStreamRequest = _message("sage.v1.AttendStreamRequest")
AttendStreamResponse = _message("sage.v1.AttendStreamResponse")
AttentionShape = _message("sage.v1.AttentionShape")
Operand = _message("sage.v1.Operand")
BlockMask = _message("sage.v1.BlockMask")
TensorSpec = _message("sage.v1.TensorSpec")
GetRequest = _message("sage.v1.GetRequest")
GetResponse = _message("sage.v1.GetResponse")
PutRequest = _message("sage.v1.PutRequest")
PutResponse = _message("sage.v1.PutResponse")
RenewRequest = _message("sage.v1.RenewRequest")
RenewResponse = _message("sage.v1.RenewResponse")
ReleaseRequest = _message("sage.v1.ReleaseRequest")
ReleaseResponse = _message("sage.v1.ReleaseResponse")
GetInfoRequest = _message("sage.v1.GetInfoRequest")
ServerInfo = _message("sage.v1.ServerInfo")

Duration = _message("google.protobuf.Duration")
Status = _message("google.rpc.Status")
BadRequest = _message("google.rpc.BadRequest")
QuotaFailure = _message("google.rpc.QuotaFailure")
RetryInfo = _message("google.rpc.RetryInfo")

_data_type = _enum("DataType")
FLOAT16: int = _data_type["DATA_TYPE_FLOAT16"]
BFLOAT16: int = _data_type["DATA_TYPE_BFLOAT16"]
INT8: int = _data_type["DATA_TYPE_INT8"]
FLOAT32: int = _data_type["DATA_TYPE_FLOAT32"]

LAYOUTS = {name: _enum("Layout")[f"LAYOUT_{name}"] for name in ("HND", "NHD")}
PRECISIONS = {
    name: _enum("Precision")[f"PRECISION_{name.upper()}"]
    for name in ("qk_int8_pv_fp16", "qk_int8_pv_fp8", "fp16")
}

_role = _enum("TensorRole")
ROLE_Q: int = _role["TENSOR_ROLE_Q"]
ROLE_K: int = _role["TENSOR_ROLE_K"]
ROLE_V: int = _role["TENSOR_ROLE_V"]
ROLE_OUTPUT: int = _role["TENSOR_ROLE_OUTPUT"]
ROLE_LSE: int = _role["TENSOR_ROLE_LSE"]
ROLE_MASK: int = _role["TENSOR_ROLE_MASK"]

# --- frames: a message whose last field is `bytes data = 15`, handled without copies ---

_DATA_FIELD = 15
_LENGTH_DELIMITED = 2
_DATA_TAG = bytes([_DATA_FIELD << 3 | _LENGTH_DELIMITED])


def encode_frame(fields: bytes, data: Buffer) -> bytes:
    """A message of serialised `fields`, then `data`; `data` is copied once."""
    return b"".join((fields, _DATA_TAG, _encode_varint(len(data)), data))


def split_frame(frame: bytes) -> tuple[bytes, memoryview]:
    """Serialised fields other than `data`, and `data` as a view into the frame.

    ValueError for a frame that is not protobuf.
    """
    view = memoryview(frame)
    data = view[:0]
    fields = b""
    at = 0
    while at < len(frame):
        begin = at
        tag, at = _decode_varint(frame, at)
        length, at = _field_length(frame, at, tag & 7)
        end = at + length
        if end > len(frame):
            raise ValueError("a field longer than its message")
        if tag == _DATA_TAG[0]:
            data = view[at:end]
        else:
            fields += frame[begin:end]
        at = end
    return fields, data


def _field_length(frame: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Bytes of a field's value, and where it begins."""
    if wire_type == _LENGTH_DELIMITED:
        return _decode_varint(frame, at)
    if wire_type == 0:
        return _decode_varint(frame, at)[1] - at, at
    if wire_type in (1, 5):
        return 8 if wire_type == 1 else 4, at
    raise ValueError(f"wire type {wire_type}")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_varint(frame: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(frame) and shift < 64:
        byte = frame[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a varint without an end")
