"""Block-sparse SageAttention as a service: the Python client of sage-serve.

    from sage_client import sparse_sageattn
    out = sparse_sageattn(q, k, v, mask_id)

`Client` has everything else: several servers, lse, lengths, precisions, patterns, asyncio.
"""

from .attend import Attention, Part
from .client import Client, ServerInfo
from .credentials import Credentials
from .dropin import sparse_sageattn
from .errors import DeadlineExceededError, InvalidArgumentError, SageError, Violation
from .masks import Band, Documents, SinkWindow, SlidingWindow, Strided
from .merge import merge
from .resident import KeyValues, ResidentMask, ResidentTensor

__all__ = [
    "Attention",
    "Band",
    "Client",
    "Credentials",
    "DeadlineExceededError",
    "Documents",
    "InvalidArgumentError",
    "KeyValues",
    "Part",
    "ResidentMask",
    "ResidentTensor",
    "SageError",
    "ServerInfo",
    "SinkWindow",
    "SlidingWindow",
    "Strided",
    "Violation",
    "merge",
    "sparse_sageattn",
]
