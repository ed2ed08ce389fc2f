"""Block-sparse SageAttention as a service: the Python client of sage-serve.

    from sage_client import sparse_sageattn
    out = sparse_sageattn(q, k, v, mask_id)

`Client` has everything else: several servers, lse, lengths, precisions, patterns, asyncio.
"""

from .client import Attention, Client, Part, ServerInfo
from .dropin import sparse_sageattn
from .errors import InvalidArgumentError, SageError, Violation
from .masks import Band, Documents, SinkWindow, SlidingWindow, Strided

__all__ = [
    "Attention",
    "Band",
    "Client",
    "Documents",
    "InvalidArgumentError",
    "Part",
    "SageError",
    "ServerInfo",
    "SinkWindow",
    "SlidingWindow",
    "Strided",
    "Violation",
    "sparse_sageattn",
]
