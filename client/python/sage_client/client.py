"""The client: attention as a call to one or several servers."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from . import local, wire
from .attend import Attention, Part, answer, attend
from .channels import channel
from .credentials import Credentials, Server
from .effort import Effort
from .errors import SageError, check_seconds, from_rpc, invalid
from .job import Job
from .pending import Pending, awaitable, blocking
from .problem import HeadRange, check_choice, check_shapes
from .request import DEFAULT_PRECISION, Options, make_job, read_operand
from .resident import Home, KeyValues, put_key_values, spread
from .stripes import plan_stripes
from .tensors import Array, kind_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_SERVER = "127.0.0.1:50051"

_GET_INFO = "/sage.v1.Server/GetInfo"

_log = logging.getLogger("sage_client")


@dataclass(frozen=True)
class ServerInfo:
    """What a server is.

    Attributes:
        server: as given to the client.
        server_id: new at each start of the server.
        version: of the server.
        backend: "cpu" or "cuda".
        devices: their names.
        precisions: names as for `Client.attend`.
        tenant: whom the server takes the client for.

    """

    server: str
    server_id: str
    version: str
    backend: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    tenant: str


class Client:
    """Attention computed by one or several sage-serve servers.

    Thread-safe. Connections belong to the process, not to the client, and are made by the first
    call; a forked child makes its own.

    Args:
        servers: HOST:PORT or unix:PATH, one or several; large requests are spread over all, by
            batch entries or heads. None: what SAGE_SERVER says (several with commas), else
            127.0.0.1:50051.
        connections: connections to each server that a large request may use.
        timeout: seconds for a call with all its retries, unless the call says otherwise; None for
            no limit.
        retries: how often a part of a request is sent again, to the next server where there are
            several, after UNAVAILABLE, a CANCELLED of the server's own, or RESOURCE_EXHAUSTED with
            a time to come back. An attention may so be computed twice, which has no other effect.
        credentials: certificates and token; None for what Credentials.from_environment() finds.
        local_fallback: compute here, in numpy, exactly and slowly, where no server can be reached.

    Every call may raise SageError, which has the server's code and text. Its subclass
    InvalidArgumentError, a ValueError too, is raised for an input that is not valid, in most cases
    before anything is sent; DeadlineExceededError, a TimeoutError too, is raised where the time was
    not enough. TypeError is raised for what is neither an array nor a tensor.

    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        connections: int = 4,
        timeout: float | None = None,
        retries: int = 4,
        credentials: Credentials | None = None,
        local_fallback: bool = False,
    ) -> None:
        if servers is None:
            servers = os.environ.get("SAGE_SERVER") or DEFAULT_SERVER
        if isinstance(servers, str):
            servers = [server.strip() for server in servers.split(",")]
        if not servers or not all(servers):
            raise invalid("servers", list(servers), "one or more of HOST:PORT or unix:PATH")
        if connections < 1:
            raise invalid("connections", connections, "1 and more")
        if retries < 0:
            raise invalid("retries", retries, "0 and more")
        check_seconds("timeout", timeout)
        if credentials is None:
            credentials = Credentials.from_environment()
        for server in servers:
            credentials.check(server)
        self.servers: tuple[str, ...] = tuple(servers)
        self._servers = tuple(Server(server, credentials) for server in servers)
        self.connections = connections
        self.timeout = timeout
        self.retries = retries
        self.local_fallback = local_fallback
        self._turn = itertools.count()

    def sparse_sageattn(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        tensor_layout: str = "HND",
    ) -> Any:
        """The drop-in with this client: see `sage_client.sparse_sageattn`."""
        return self.attend(q, k, v, mask_id, is_causal, tensor_layout).out

    def _prepare(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        tensor_layout: str = "HND",
        *,
        out: Array = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Pending:
        """Computes softmax(softmax_scale q kT) v, masked.

        Args:
            q: [B, Hq, Sq, D], or [B, Sq, Hq, D] in NHD; float16, bfloat16 or float32, which is
                rounded to float16. numpy or torch, on any device, of any strides.
            k: the same with Hkv heads, of which Hq is a multiple, and Sk.
            v: k's shape.
            mask_id: None for all blocks; a pattern such as `SlidingWindow`; or 0 and 1 (or bools)
                in [B or 1, Hq or 1, ceil(Sq/128), ceil(Sk/64)], leading ones optional. Blocks of
                k and v that it leaves unused are not sent, where the precision allows it.
            is_causal: row i sees keys j <= i + Sk - Sq: the last row sees all keys.
            tensor_layout: "HND" or "NHD".
            out: where to write the output: an array or a tensor of the CPU, of the output's shape
                and type, that shares no memory with q, k and v. After a failure it holds anything.
                None for new memory, which takes longer to get than to reuse where it is large.
            timeout: seconds, in place of the client's; DeadlineExceededError after that.
            options:
                softmax_scale: None for D^-0.5.
                precision: "qk_int8_pv_fp16" (default), "qk_int8_pv_fp8", or "fp16", which does not
                    quantise.
                return_lse: also return lse, so that answers over parts of the keys can be merged.
                seqlens_q: rows of each batch entry that exist; None for all.
                seqlens_k: keys of each batch entry that exist; None for all.
                dtype: "bfloat16" to send float32 as bfloat16; None for float16.
                output_dtype: "float16", "bfloat16" or "float32"; None for that of `out`, or q's.
                prequantize: True sends q and k as INT8: a third fewer bytes, the same answer, for
                    the time that numpy takes to quantise. Worth it on slow networks.
                priority: -10 to 10, larger first between requests of one tenant; 0 by default.

        """
        job = make_job(q, k, v, mask_id, is_causal, tensor_layout, kind_of(q), out=out, **options)
        effort = self._effort(timeout)
        return Pending(partial(self._run, job, out, effort), effort)

    attend = blocking(_prepare)
    attend_async = awaitable(_prepare)

    def put(
        self,
        k: Array,
        v: Array,
        tensor_layout: str = "HND",
        *,
        precisions: Sequence[str] = (DEFAULT_PRECISION,),
        dtype: str | None = None,
        lease: float | None = None,
        timeout: float | None = None,
    ) -> KeyValues:
        """Puts K and V at the servers, some of the heads at each, to be attended to many times.

        Args:
            k: [B, Hkv, Sk, D], or [B, Sk, Hkv, D] in NHD, as for `attend`.
            v: k's shape and type.
            tensor_layout: "HND" or "NHD".
            precisions: k is kept prepared for these; others work too, and prepare it each time.
            dtype: as for `attend`.
            lease: seconds for which the servers keep them once this process is gone; None for the
                server's default. A server may grant less. It is renewed until they are released.
            timeout: seconds, in place of the client's.

        All or nothing: what was stored is released where a part fails. The arrays are to stay as
        they are, since a server that was started anew gets them again.

        """
        check_choice("tensor_layout", tensor_layout, list(wire.LAYOUTS))
        for precision in precisions:
            check_choice("precisions", precision, list(wire.PRECISIONS))
        k_operand, v_operand = (
            read_operand(field, x, tensor_layout, dtype) for field, x in (("k", k), ("v", v))
        )
        if v_operand.dtype is not k_operand.dtype:
            raise invalid("v.dtype", v_operand.dtype.name, f"k's, {k_operand.dtype.name}")
        k_shape, v_shape = k_operand.bits.shape, v_operand.bits.shape
        _, heads, _, _ = check_shapes(k_shape, k_shape, v_shape, tensor_layout)
        shares = spread(heads, self._servers)
        home = Home(shares, self.connections, self.timeout, self.retries)
        return put_key_values(home, k_operand, v_operand, precisions, lease, timeout, kind_of(k))

    def info(self, timeout: float | None = None) -> list[ServerInfo]:
        """What each server is."""
        effort = self._effort(timeout)
        return [self._info(server, effort) for server in self._servers]

    def _info(self, server: Server, effort: Effort) -> ServerInfo:
        get_info = channel(server).unary_unary(
            _GET_INFO,
            request_serializer=wire.GetInfoRequest.SerializeToString,
            response_deserializer=wire.ServerInfo.FromString,
        )
        try:
            info = get_info(wire.GetInfoRequest(), timeout=effort.remaining())
        except grpc.RpcError as error:
            raise from_rpc(error, server.address) from None
        names = {number: name for name, number in wire.PRECISIONS.items()}
        return ServerInfo(
            server=server.address,
            server_id=info.server_id,
            version=info.version,
            backend=info.backend,
            devices=tuple(device.name for device in info.devices),
            precisions=tuple(names[p] for p in info.precisions if p in names),
            tenant=info.tenant,
        )

    def _effort(self, timeout: float | None) -> Effort:
        return Effort(self.timeout if timeout is None else timeout, self.retries)

    def _run(self, job: Job, out: Array, effort: Effort) -> Attention:
        """Computes the job in stripes, each on a connection of its own."""
        turn, servers = next(self._turn), len(self.servers)

        def attend_stripe(index: int, stripe: HeadRange) -> Part:
            first = (turn + index) % servers
            order = self._servers[first:] + self._servers[:first]
            return attend(job.of(stripe), order, index // servers, effort)

        stripes = plan_stripes(job, servers, self.connections)
        try:
            parts = effort.together(
                [partial(attend_stripe, i, stripe) for i, stripe in enumerate(stripes)]
            )
        except SageError as error:
            if not self.local_fallback or error.code != grpc.StatusCode.UNAVAILABLE:
                raise
            _log.warning("computing locally: %s", error)
            local.attend(job)
            parts = []
        return answer(job, parts, out)
