"""Finds out before a base model is loaded whether the model hub can be reached.

huggingface_hub tries each file seven times, with pauses of 23 s in all, and open_clip asks for several files:
without a hub, it took two minutes until a load failed. No setting changes the number of tries
(https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables). Without a hub, models are
therefore only looked for in the cache, as with HF_HUB_OFFLINE, which huggingface_hub reads when it is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import constants

TIMEOUT_S = 5.0


def unreachable_hub() -> str | None:
    """The hub's address and why it cannot be reached; None if it answers, or if HF_HUB_OFFLINE is set."""
    if constants.is_offline_mode():
        return None
    try:
        httpx.head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{constants.ENDPOINT} ({type(error).__name__}: {error})"
    return None


@contextmanager
def cache_only() -> Iterator[None]:
    """Let huggingface_hub only look into its cache until the block ends. Not for use where HF_HUB_OFFLINE is set.

    The first of two threads that leaves such a block ends it for both. The other one then waits for the hub's
    own tries.
    """
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
