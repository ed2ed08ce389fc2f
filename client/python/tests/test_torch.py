"""torch tensors, on the CPU and on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest

from sage_client import Client, InvalidArgumentError, dropin, sparse_sageattn

torch = pytest.importorskip("torch")

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
# Relative L2 for N(0, 1) inputs, of the default precision.
LIMIT = 0.03


@pytest.fixture
def seeded(rng: Any) -> None:
    torch.manual_seed(int(rng.integers(2**31)))


def draw(*shape: int, device: str, dtype: Any = torch.float16) -> Any:
    return [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]


def expected(q: Any, k: Any, v: Any, mask: Any, is_causal: bool = False) -> Any:
    """float64, of tensors in HND with Sq == Sk."""
    length = q.shape[2]
    visible = mask.bool().repeat_interleave(128, -2).repeat_interleave(64, -1)
    visible = visible[..., :length, :length].to(q.device)
    if is_causal:
        visible = visible & torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0)
    return weights @ v.double()


def relative_l2(actual: Any, wanted: Any) -> float:
    return float((actual.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("seeded")
def test_the_output_goes_where_it_is_wanted(client: Client, dtype: Any) -> None:
    q, k, v = draw(1, 2, 200, 64, device="cpu", dtype=dtype)
    out = torch.empty_like(q)
    assert client.attend(q, k, v, out=out).out is out
    assert torch.equal(out, client.attend(q, k, v).out)
    with pytest.raises(InvalidArgumentError, match="out: got a tensor that requires a gradient"):
        client.attend(q, k, v, out=torch.empty_like(q, requires_grad=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [200, 20_000])  # inline, and streamed
@pytest.mark.usefixtures("seeded")
def test_the_output_is_as_q(client: Client, device: str, dtype: Any, length: int) -> None:
    q, k, v = draw(1, 2, length, 64, device=device, dtype=dtype)
    tiles, blocks = -(-length // 128), -(-length // 64)
    mask = (torch.rand(2, tiles, blocks, device=device) < (0.5 if length < 1000 else 0.01)).int()
    answer = client.attend(q, k, v, mask, return_lse=True)
    assert (answer.out.shape, answer.out.dtype) == (q.shape, dtype)
    assert answer.out.device == answer.lse.device == q.device
    assert answer.lse.dtype == torch.float32
    if length == 200:
        assert relative_l2(answer.out, expected(q, k, v, mask)) <= LIMIT
    else:
        rows = slice(128 * 3, 128 * 4)
        row = expected_rows(q, k, v, mask, rows)
        assert relative_l2(answer.out[:, :, rows], row) <= LIMIT


def expected_rows(q: Any, k: Any, v: Any, mask: Any, rows: slice) -> Any:
    """Rows of one tile, float64."""
    tile = rows.start // 128
    visible = mask[:, tile].bool().repeat_interleave(64, -1)[:, None, : k.shape[2]]
    scores = q[:, :, rows].double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0) @ v.double()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("seeded")
def test_the_drop_in(server: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_SERVER", server)
    dropin.default_client.cache_clear()
    q, k, v = draw(1, 2, 512, 64, device=device)
    mask_id = torch.tensor(
        [
            [0, 1, 0, 1, 1, 1, 0, 1],
            [0, 1, 1, 1, 0, 0, 1, 0],
            [1, 0, 1, 1, 1, 0, 0, 1],
            [0, 0, 1, 0, 1, 1, 0, 0],
        ],
        device=device,
    )
    for is_causal in (False, True):
        wanted = expected(q, k, v, mask_id, is_causal)
        out = sparse_sageattn(q, k, v, mask_id=mask_id, is_causal=is_causal, tensor_layout="HND")
        assert relative_l2(out, wanted) <= LIMIT
        nhd = [x.transpose(1, 2) for x in (q, k, v)]  # a view: strides of any kind are taken
        out = sparse_sageattn(*nhd, mask_id, is_causal, tensor_layout="NHD")
        assert relative_l2(out.transpose(1, 2), wanted) <= LIMIT
    dropin.default_client.cache_clear()


@pytest.mark.usefixtures("seeded")
def test_causal_alignment_beside_torchs_own(client: Client) -> None:
    bias = pytest.importorskip("torch.nn.attention.bias")
    sdpa = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.randn(2, 4, length, 64) for length in (100, 300, 300))
    exact = {"is_causal": True, "precision": "fp16"}
    lower_right = sdpa(q, k, v, attn_mask=bias.causal_lower_right(100, 300))
    assert relative_l2(client.attend(q, k, v, **exact).out, lower_right.double()) <= 0.002
    top_left = sdpa(q, k, v, is_causal=True)
    ours = client.attend(q, k, v, **exact, seqlens_k=[100] * 2).out
    assert relative_l2(ours, top_left.double()) <= 0.002


@pytest.mark.usefixtures("seeded")
def test_gradients_are_refused_unless_they_are_off(client: Client) -> None:
    q, k, v = draw(1, 1, 64, 64, device="cpu")
    q.requires_grad_()
    with pytest.raises(InvalidArgumentError, match="q: requires a gradient"):
        client.attend(q, k, v)
    with torch.no_grad():
        client.attend(q, k, v)
    with torch.inference_mode():
        client.attend(q, k, v)


def test_other_dtypes_are_refused(client: Client) -> None:
    q, k, v = draw(1, 1, 64, 64, device="cpu", dtype=torch.float64)
    with pytest.raises(InvalidArgumentError, match=r"q\.dtype: got torch\.float64, allowed"):
        client.attend(q, k, v)
