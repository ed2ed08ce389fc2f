"""Bad input: by code, and with a message that names the field and what is allowed."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from sage_client import (
    Band,
    Client,
    DeadlineExceededError,
    Documents,
    InvalidArgumentError,
    SageError,
    SinkWindow,
    SlidingWindow,
    Strided,
)

Q = np.zeros((2, 4, 300, 64), np.float16)
K = np.zeros((2, 2, 500, 64), np.float16)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.int8)


# What is passed in place of a good call's arguments, and what the message says.
BAD = [
    ({"q": Q[0]}, r"q\.shape: got \[4, 300, 64\], allowed \[B, H, S, D\]"),
    ({"q": Q[:, :, :0]}, r"q\.shape: got .* each at least 1"),
    ({"q": Q[:, :3]}, r"q\.shape: got 3 heads, allowed a multiple of k's 2"),
    ({"q": Q.astype(np.float64)}, r"q\.dtype: got float64, allowed float16"),
    ({"k": K.astype(np.float32)}, r"k\.dtype: got float32, allowed q's, float16"),
    ({"k": K[:1]}, r"v\.shape"),
    ({"k": K[:1], "v": K[:1]}, r"k\.shape: got \[1, 2, 500, 64\], allowed q's batch 2"),
    ({"v": K[:, :, :499]}, r"v\.shape: got .* allowed k's, \[2, 2, 500, 64\]"),
    ({"q": Q[..., :60], "k": K[..., :60], "v": K[..., :60]}, r"head_dim: got 60, allowed a mult"),
    ({"tensor_layout": "HSD"}, r"tensor_layout: got 'HSD', allowed HND, NHD"),
    ({"precision": "int4"}, r"precision: got 'int4', allowed qk_int8_pv_fp16, .*fp16"),
    ({"output_dtype": "int8"}, r"output_dtype: got 'int8', allowed float16"),
    ({"dtype": "float32"}, r"dtype: got 'float32', allowed float16, bfloat16"),
    ({"softmax_scale": 0.0}, r"softmax_scale: got 0\.0, allowed a finite and positive"),
    ({"softmax_scale": float("nan")}, r"softmax_scale: got nan"),
    ({"seqlens_k": [1]}, r"seqlens_k: got 1 lengths, allowed 2"),
    ({"seqlens_q": [1, 301]}, r"seqlens_q: got 301, allowed 0 to 300"),
    # The floor of 300 / 128 by 500 / 64 is not enough.
    (
        {"mask_id": ones(2, 7)},
        r"mask_id\.shape: got \[2, 7\], allowed \[1 or 2, 1 or 4, 3, 8\], "
        r"that is ceil\(300 / 128\) by ceil\(500 / 64\)",
    ),
    ({"mask_id": ones(3, 3, 8)}, r"mask_id\.shape: got \[3, 3, 8\]"),
    ({"mask_id": ones(1, 2, 4, 3, 8)}, r"mask_id\.shape"),
    ({"mask_id": ones(8)}, r"mask_id\.shape"),
    ({"mask_id": ones(3, 8) * 2}, r"mask_id: got values other than 0 and 1"),
    ({"mask_id": SlidingWindow(-1, 0)}, r"mask_id\.left_blocks: got -1, allowed 0 to"),
    ({"mask_id": SinkWindow(0, 1 << 50)}, r"mask_id\.left_blocks: got 1125"),
    ({"mask_id": Strided(0)}, r"mask_id\.stride_blocks: got 0, allowed 1 to"),
    ({"mask_id": Strided(3, 3)}, r"mask_id\.phase_blocks: got 3, allowed 0 to 2"),
    ({"mask_id": Strided(3, 0, -1)}, r"mask_id\.local_blocks: got -1"),
    ({"mask_id": Band(2, 1)}, r"mask_id\.upper_blocks: got 1, allowed 2 to"),
    ({"mask_id": Documents([300])}, r"mask_id\.lengths: got documents for 300 rows, allowed 500"),
    (
        {"mask_id": Documents([100, 0, 400]), "q": np.zeros((2, 4, 500, 64), np.float16)},
        r"mask_id\.lengths: got \[100, 0, 400\], allowed 1 and more each, 500 in all",
    ),
    ({"priority": 11}, r"priority: got 11, allowed -10 to 10"),
    ({"timeout": 0}, r"timeout: got 0, allowed a positive number of seconds"),
    ({"timeout": float("nan")}, r"timeout: got nan"),
    ({"mask_id": ones(3, 8).astype(np.float32)}, r"mask_id\.dtype: got float32"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_the_client_refuses(client: Client, wrong: Any, message: str) -> None:
    arguments: Any = {"q": Q, "k": K, "v": K, **wrong}
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        client.attend(**arguments)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.violations
    assert isinstance(caught.value, ValueError)


def test_the_server_refuses(client: Client) -> None:
    wide = np.zeros((1, 1, 64, 264), np.float16)
    with pytest.raises(InvalidArgumentError, match=r"head_dim: got 264, allowed") as caught:
        client.attend(wide, wide, wide)
    assert caught.value.violations[0].subject == "header.shape.head_dim"
    assert caught.value.server == client.servers[0]


@pytest.mark.parametrize("length", [64, 40_000])  # inline, and streamed
def test_values_that_float16_cannot_hold(client: Client, length: int) -> None:
    q = np.zeros((1, 1, length, 64), np.float32)
    q[0, 0, length - 1, 3] = 1e6
    kv = q[:, :, :64]
    mask = [[0]] * (-(-length // 128))
    with pytest.raises(InvalidArgumentError, match=r"q: got 1e\+06, which float16 cannot hold"):
        client.attend(q, kv, kv, mask)
    client.attend(q, kv, kv, mask, dtype="bfloat16")


def test_what_is_not_a_tensor(client: Client) -> None:
    with pytest.raises(TypeError, match="k: a list; takes a numpy array or a torch tensor"):
        client.attend(Q, [1], K)
    with pytest.raises(TypeError, match="unexpected keyword arguments: scale"):
        client.attend(Q, K, K, scale=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("servers", ["", "a:1,,b:2", []])
def test_servers_must_be_named(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if servers == "":  # as unset: the default
        monkeypatch.setenv("SAGE_SERVER", servers)
        assert Client().servers == ("127.0.0.1:50051",)
        return
    with pytest.raises(InvalidArgumentError, match="servers: got"):
        Client(servers)


def test_no_server(unused_port: int) -> None:
    address = f"127.0.0.1:{unused_port}"
    with pytest.raises(SageError, match=f"is sage-server running there.*{address}") as caught:
        Client(address, retries=0).attend(Q, K, K)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_a_deadline_ends_a_call(client: Client, rng: np.random.Generator) -> None:
    q = rng.standard_normal((1, 8, 8192, 64)).astype(np.float16)
    with pytest.raises(DeadlineExceededError) as caught:
        client.attend(q, q, q, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
