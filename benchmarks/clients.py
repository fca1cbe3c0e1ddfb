"""Many clients that call /predict as Label Studio does; each sends its next request when the last is answered.

    python -m benchmarks.clients --url http://127.0.0.1:9090 --photos http://127.0.0.1:8000 --clients 32 --tasks 1
        --seconds 10 --first 0

This is a process of its own that does as little work as possible for each request, because it shares the machine
with the servers. Every task is a photograph that was not requested before, from number `--first` on; with
`--repeat N` the first N photographs are repeated. After a 503 the client waits as Retry-After says and sends the
request again. Prints JSON:
{"requests": [[began_s, ended_s, tasks], ...], "refused": 0, "unanswered": 0}.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.question import LABEL_CONFIG

BUSY = 503
OK = 200


@dataclass
class Tally:
    """What is printed: answered requests, responses with 503, and tasks without a prediction."""

    requests: list[tuple[float, float, int]] = field(default_factory=list)
    refused: int = 0
    unanswered: int = 0


class Connection:
    """An HTTP/1.1 connection to one server, kept open, and opened again after the server has closed it."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send a JSON body. Returns the status, the headers by lower-case name, and the body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        reader, writer = self._streams = self._streams or await asyncio.open_connection(self._host, self._port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        answer = await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return int(first.split()[1]), headers, answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def request_body(numbers: list[int], photos: str, label_config: str = LABEL_CONFIG) -> bytes:
    tasks = [{"id": number, "data": {"image": f"{photos}/{number}.jpg"}} for number in numbers]
    body: dict[str, Any] = {"tasks": tasks, "project": "1.1", "label_config": label_config, "params": {}}
    return json.dumps(body).encode()


async def send_requests(options: argparse.Namespace, numbers: Iterator[int], until: float, tally: Tally) -> None:
    """One client: send requests until the clock reaches `until`."""
    connection = Connection(options.url)
    while time.perf_counter() < until:
        body = request_body(list(itertools.islice(numbers, options.tasks)), options.photos, options.label_config)
        began = time.perf_counter()
        while True:
            status, headers, answer = await connection.post("/predict", body)
            if status != BUSY:
                break
            tally.refused += 1
            await asyncio.sleep(float(headers.get(b"retry-after", b"1")))
        if status != OK:
            raise RuntimeError(f"status {status}: {answer[:500].decode(errors='replace')}")
        tally.requests.append((began, time.perf_counter(), options.tasks))
        tally.unanswered += sum(1 for entry in json.loads(answer)["results"] if not entry)
    connection.close()


async def run(options: argparse.Namespace) -> Tally:
    counted = itertools.count(options.first)
    numbers = (options.first + number % options.repeat for number in counted) if options.repeat else counted
    tally, until = Tally(), time.perf_counter() + options.seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(options.clients):
            group.create_task(send_requests(options, numbers, until, tally))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--label-config", default=LABEL_CONFIG)
    parser.add_argument("--repeat", type=int, default=0)
    tally = asyncio.run(run(parser.parse_args()))
    print(json.dumps(vars(tally)))


if __name__ == "__main__":
    main()
