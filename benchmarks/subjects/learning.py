"""Learning: from the last submit to a new version, round after round.

The model is the demo model. Each round sends 20 annotations of new tasks to the webhook, which starts a run, and
waits for its end. After a run whose version was refused Lorabel waits for a quarter more annotations; then the
round asks for its run, as a person may. A run learns from the new annotations and a bounded number of old ones, so
late rounds should take as long as early rounds.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks import servers
from benchmarks.drawn_tasks import PROJECT, Annotator
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, row_of
from lorabel.demo import MODEL_FOLDER

ROUNDS, QUICK_ROUNDS = 20, 3
ANNOTATIONS = 20
POLL_S = 0.05
TIMEOUT_S = 180.0
# A run that is due is requested within this time.
STARTS_WITHIN_S = 10.0
SHOWN = (1, 2, 5, 10, 15, 20)
LAST_OF_SECOND = Goal("<=", 1.2)


@dataclass(frozen=True)
class Round:
    """`seconds`: from the answer to the last submit, or from asking for the run, to the end of the run."""

    seconds: float
    is_promoted: bool


def measure(plan: Plan) -> list[Row]:
    count = QUICK_ROUNDS if plan.is_quick else ROUNDS
    variables = {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "TRAIN_AFTER_ANNOTATIONS": str(ANNOTATIONS),
        "TRAIN_AFTER_SECONDS": "3600",
        # Runs that make versions; `benchmarks.lora_depth` measures those beside heads.
        "LORA_TOWERS": "text",
    }
    with servers.lorabel(plan, variables) as lorabel, _client(lorabel.url) as client:
        annotator = Annotator(client)
        rounds = [_round(client, annotator, number) for number in range(1, count + 1)]
    promoted = [measured.seconds for measured in rounds if measured.is_promoted]
    last = rounds[-1].seconds
    note = "" if count == ROUNDS else f"quick: round {count} stands for round {ROUNDS}"
    return [
        row_of(
            "from the last submit to the new live version", promoted, "s", note=f"{len(promoted)} of {count} live"
        ),
        *(Row(f"round {n}", rounds[n - 1].seconds, "s") for n in SHOWN if n <= count),
        row_of(f"rounds 2 to {count}", [measured.seconds for measured in rounds[1:]], "s"),
        Row(f"round {count} over round 2", last / rounds[1].seconds, "x", goal=LAST_OF_SECOND, note=note),
        Row(
            f"last {len(rounds[-3:])} rounds over rounds 2 to 4, medians",
            _median(rounds[-3:]) / _median(rounds[1:4]),
            "x",
            note="less a matter of chance",
        ),
    ]


def _median(rounds: list[Round]) -> float:
    return statistics.median(measured.seconds for measured in rounds)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=60.0)


def _round(client: httpx.Client, annotator: Annotator, number: int) -> Round:
    """Submit annotations and wait for the run.

    Raises:
        RuntimeError: the run failed, or did not end in time.
    """
    annotator.submit(ANNOTATIONS)
    submitted_at = time.monotonic()
    is_asked_for = False
    while time.monotonic() < submitted_at + TIMEOUT_S:
        run = _run(client, number)
        if run is None and not is_asked_for and time.monotonic() > submitted_at + STARTS_WITHIN_S:
            client.post(f"/api/v1/projects/{PROJECT}/train").raise_for_status()
            is_asked_for, submitted_at = True, time.monotonic()
        if run is not None and run["state"] == "failed":
            raise RuntimeError(f"training run {number} failed: {run['error']}")
        if run is not None and run["state"] == "finished":
            seconds = time.monotonic() - submitted_at
            project = client.get(f"/api/v1/projects/{PROJECT}").raise_for_status().json()
            return Round(seconds, project["live_version"] == run["version"])
        time.sleep(POLL_S)
    raise RuntimeError(f"no run ended within {TIMEOUT_S:.0f} s after round {number}")


def _run(client: httpx.Client, number: int) -> dict[str, Any] | None:
    """The project's run of that number, counted from 1, or None if it is not requested yet."""
    answer = client.get(f"/api/v1/projects/{PROJECT}/runs")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    newest_first: list[dict[str, Any]] = answer.raise_for_status().json()["runs"]
    return newest_first[-number] if len(newest_first) >= number else None
