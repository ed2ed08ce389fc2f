"""Ordinary generated Python stubs against sage-server: one message, a stream, and any field order.

    plain_python_stub_test.py SAGE_SERVER

Exit status 77, a skip, where grpcio, numpy, protobuf or protoc's Python plugin is missing.
"""

import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

SKIPPED = 77
PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
BATCH, HEADS, QUERIES, KEYS, DIM = 1, 3, 200, 150, 64

try:
    import google.protobuf
    import grpc
    import numpy
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(SKIPPED)
if shutil.which("protoc") is None or shutil.which("grpc_python_plugin") is None:
    print("SKIPPED: no protoc or grpc_python_plugin")
    sys.exit(SKIPPED)


def generate_stubs(folder):
    files = ["sage/v1/attention.proto", "sage/v1/types.proto"]
    plugin = shutil.which("grpc_python_plugin")
    subprocess.run(
        ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}",
         f"--plugin=protoc-gen-grpc_python={plugin}", *files],
        check=True,
    )
    sys.path.insert(0, str(folder))


class Server:
    """A sage-server on a free port, until the end of a `with`."""

    def __init__(self, program, folder):
        port_file = folder / "port"
        self.process = subprocess.Popen(
            [program, "--backend", "cpu", "--threads", "2", "--listen", "127.0.0.1:0",
             "--unit", "16384", "--port-file", str(port_file), "--log-level", "off"]
        )
        while not port_file.exists():
            if self.process.poll() is not None:
                sys.exit("the server did not start")
            time.sleep(0.01)
        self.address = f"127.0.0.1:{int(port_file.read_text())}"

    def __enter__(self):
        return self.address

    def __exit__(self, *unused):
        self.process.terminate()
        if self.process.wait(timeout=60) != 0:
            sys.exit("the server did not end in peace")


def reference(q, k, v):
    q, k, v = (x.astype(numpy.float64) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * DIM**-0.5
    weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


def header(pb, types):
    return pb.AttendHeader(
        shape=types.AttentionShape(batch=BATCH, num_heads_q=HEADS, num_heads_kv=HEADS,
                                   seqlen_q=QUERIES, seqlen_k=KEYS, head_dim=DIM),
        dtype=types.DATA_TYPE_FLOAT16,
        layout=types.LAYOUT_HND,
    )


def payload(pb, unit, index, q, k, v):
    """The chunks of a unit, of 1000 bytes."""
    heads = slice(unit.kv_head_begin, unit.kv_head_begin + unit.kv_head_count)
    rows = slice(unit.q_begin, unit.q_begin + unit.q_count)
    pieces = [(pb.TENSOR_ROLE_Q, q[unit.batch, heads, rows])]
    if unit.kv_unit == index:
        pieces += [(pb.TENSOR_ROLE_K, k[unit.batch, heads]), (pb.TENSOR_ROLE_V, v[unit.batch, heads])]
    for role, piece in pieces:
        data = piece.tobytes()
        for offset in range(0, len(data), 1000):
            chunk = pb.Chunk(tensor=role, unit=index, offset=offset)
            yield pb.AttendStreamRequest(chunk=chunk, data=data[offset : offset + 1000])


def data_first(message):
    """The same message with `data`, field 15, before all others."""
    data = type(message)(data=message.data)
    rest = type(message)()
    rest.CopyFrom(message)
    rest.ClearField("data")
    return data.SerializeToString() + rest.SerializeToString()


def stream(pb, types, call, q, k, v):
    """The output of one AttendStream by `call`, which takes an iterator of messages."""
    accepted = []
    arrived = threading.Event()

    def requests():
        yield pb.AttendStreamRequest(header=header(pb, types))
        arrived.wait()
        for index, unit in enumerate(accepted[0].units):
            yield from payload(pb, unit, index, q, k, v)

    out = numpy.full_like(q, numpy.nan)
    units = {}
    trailer = None
    for response in call(requests()):
        if response.HasField("accepted"):
            accepted.append(response.accepted)
            arrived.set()
        elif response.HasField("chunk"):
            assert response.chunk.tensor == pb.TENSOR_ROLE_OUTPUT
            units[response.chunk.unit] = units.get(response.chunk.unit, b"") + response.data
        else:
            trailer = response.trailer
    assert trailer is not None and trailer.bytes_out == out.nbytes
    assert len(units) == len(accepted[0].units) > 1
    for index, data in units.items():
        unit = accepted[0].units[index]
        heads = slice(unit.kv_head_begin, unit.kv_head_begin + unit.kv_head_count)
        rows = slice(unit.q_begin, unit.q_begin + unit.q_count)
        shape = (unit.kv_head_count, unit.q_count, DIM)
        out[unit.batch, heads, rows] = numpy.frombuffer(data, numpy.float16).reshape(shape)
    return out


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        generate_stubs(folder)
        from sage.v1 import attention_pb2 as pb
        from sage.v1 import attention_pb2_grpc as rpc
        from sage.v1 import types_pb2 as types

        seed = random.SystemRandom().randrange(2**32)
        print(f"grpcio {grpc.__version__}, protobuf {google.protobuf.__version__}, seed {seed}")
        normal = numpy.random.default_rng(seed).standard_normal
        q = normal((BATCH, HEADS, QUERIES, DIM)).astype(numpy.float16)
        k = normal((BATCH, HEADS, KEYS, DIM)).astype(numpy.float16)
        v = normal((BATCH, HEADS, KEYS, DIM)).astype(numpy.float16)
        with Server(sys.argv[1], folder) as address, grpc.insecure_channel(address) as channel:
            stub = rpc.AttentionStub(channel)
            message = pb.AttendRequest(header=header(pb, types), q=q.tobytes(), k=k.tobytes(),
                                       v=v.tobytes())
            whole = stub.Attend(message, timeout=60)
            out = numpy.frombuffer(whole.out, numpy.float16).reshape(q.shape)
            want = reference(q, k, v)
            error = numpy.linalg.norm(out - want) / numpy.linalg.norm(want)
            print(f"relative L2 {error:.4f}")
            assert error < 0.03, error  # the default limit of qk_int8_pv_fp16

            ordinary = stream(pb, types, lambda r: stub.AttendStream(r, timeout=60), q, k, v)
            assert ordinary.tobytes() == whole.out
            reordered = channel.stream_stream(
                "/sage.v1.Attention/AttendStream",
                request_serializer=data_first,
                response_deserializer=pb.AttendStreamResponse.FromString,
            )
            assert stream(pb, types, lambda r: reordered(r, timeout=60), q, k, v).tobytes() == whole.out
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
