"""A process that fetches files and decodes pictures for the model server, whose Python goes on meanwhile.

It has no model and keeps nothing between two requests. Each connection has a thread and one request at a time:

(FETCH, MediaRef)                     -> {} and the file
(READ, reader, seconds left) and file -> {"shape": ...} and the pixels; `reader` is `PictureReader.pickled`

What fails is answered by {"reason": ..., "is_permanent": ...}.
"""

import gc
import json
import logging
import os
import pickle
import signal
import socket
import threading
from functools import lru_cache
from time import monotonic
from typing import Any

import torch

from lorabel import logs
from lorabel.errors import UnreadableError
from lorabel.families.encoders.picture_reading import PictureReader
from lorabel.media.deadline import deadline
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings
from model_server.decoder_messages import BEGUN, receive, send

log = logging.getLogger(__name__)

FETCH, READ = "fetch", "read"


def serve(control: socket.socket, settings: Settings) -> None:
    """Answer requests until the model server closes `control`, on which it sends the ends of new connections."""
    # Whoever ends the model server with a signal to all of its processes lets it finish what it has begun.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # else the collector writes to, and so copies, the modules' memory that the decoders share
    logs.configure(settings)
    torch.set_num_threads(1)
    fetcher = Fetcher(settings)
    while True:
        message, ends, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)  # the threads need not end what nobody waits for
        stream = socket.socket(fileno=ends[0])
        threading.Thread(target=_serve, args=(stream, fetcher, settings), daemon=True).start()


def _serve(stream: socket.socket, fetcher: Fetcher, settings: Settings) -> None:
    """Answer the requests of a connection until it is closed."""
    with stream:
        while _answer_next(stream, fetcher, settings):
            """A separate function, so that a waiting thread holds no reference to the last file."""


def _answer_next(stream: socket.socket, fetcher: Fetcher, settings: Settings) -> bool:
    try:
        head, file = receive(stream)
        stream.sendall(BEGUN)
    except (EOFError, OSError):
        return False
    body: bytes | memoryview = b""
    try:
        answer, body = _answered(pickle.loads(head), file, fetcher, settings)
    except UnreadableError as error:
        answer = {"reason": str(error), "is_permanent": error.is_permanent}
    except Exception as error:
        log.exception("a decoder failed")
        reason = f"{type(error).__name__} in a decoder of the model server, whose log has more"
        answer = {"reason": reason, "is_permanent": False}
    try:
        send(stream, json.dumps(answer).encode(), body)
    except OSError:
        return False  # the model server has ended
    return True


def _answered(
    request: tuple[Any, ...], file: memoryview, fetcher: Fetcher, settings: Settings
) -> tuple[dict[str, Any], bytes | memoryview]:
    match request:
        case (kind, media) if kind == FETCH:
            return {}, fetcher.fetch(media)
        case (kind, reader, seconds_left) if kind == READ:
            with deadline(monotonic() + seconds_left):
                pixels = _reader(reader).read_here(file.tobytes(), decode_memory(settings.media_decode_mb))
            array = pixels.permute(1, 2, 0).contiguous().numpy()
            return {"shape": array.shape}, array.data
    raise ValueError(f"{request[0]!r} is no request")


@lru_cache(maxsize=64)
def _reader(pickled: bytes) -> PictureReader:
    reader: PictureReader = pickle.loads(pickled)
    return reader
