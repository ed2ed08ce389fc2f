"""What becomes of the memory of messages when they are freed."""

from __future__ import annotations

from functools import cache

import numpy as np

_LARGER_THAN_A_MESSAGE = 8 << 20


@cache
def keep_freed_messages() -> None:
    """Has malloc keep the memory of freed messages for the next ones.

    glibc gives a freed block of a message's size back to the system, and the next one is faulted in
    anew, page by page, until it has seen a larger block freed: M_MMAP_THRESHOLD in mallopt(3). Here
    is one. Other libraries do not mind.
    """
    np.empty(_LARGER_THAN_A_MESSAGE, np.uint8)
