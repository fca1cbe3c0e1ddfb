"""The scores of versions, as the runs that made them measured them, by control tag.

A version's scores are about the tasks of its own run, on which the version that was live was measured, too.
Scores of different versions may be about different tasks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorabel.database import versions
from lorabel.evaluation.proportions import Interval, wilson

# Key in a version's metrics: by control tag, the name of the metric that decides.
PRIMARY = "primary"
# Metrics that are a share of tasks, whose interval follows from the number of tasks.
SHARES_OF_TASKS = frozenset({"accuracy"})
# How decisions name the metric where a version has no PRIMARY: `label: map_50 0.812 is better than live's ...`.
IN_DECISION = re.compile(r"(\w+) [\d.]+ is (?:no )?(?:better|worse) than")


@dataclass(frozen=True)
class Score:
    """The deciding metric of a version for a control tag, in [0, 1]; higher is better.

    Attributes:
        live: of the version that was live when this one was trained, on the same tasks; None if unknown.
        tasks: on how many tasks both were measured.
        interval: of `value`; None if the metric is no share of tasks.
    """

    control_tag: str
    metric: str
    value: float
    live: float | None
    tasks: int
    interval: Interval | None


def scores(metrics: Mapping[str, Any]) -> list[Score]:
    """The scores of a version with these metrics, in the order of its control tags."""
    found = []
    for tag, values in metrics.get("candidate", {}).items():
        metric = _primary(metrics, tag)
        value = values.get(metric) if metric else None
        if metric is None or not isinstance(value, int | float):
            continue
        live = metrics.get("live", {}).get(tag, {}).get(metric)
        tasks = int(values.get("tasks") or 0)
        is_share = metric in SHARES_OF_TASKS and tasks
        interval = wilson(round(value * tasks), tasks) if is_share else None
        found.append(Score(tag, metric, float(value), live, tasks, interval))
    return found


def _primary(metrics: Mapping[str, Any], tag: str) -> str | None:
    """The deciding metric of a control tag. Versions from before PRIMARY name it where they were judged."""
    recorded = metrics.get(PRIMARY, {}).get(tag) or metrics.get(versions.OVER_HEAD, {}).get(tag, {}).get("metric")
    if recorded:
        return str(recorded)
    said = str(metrics.get("decision", ""))
    match = IN_DECISION.search(said[max(0, said.find(f"{tag}: ")) :])
    return match[1] if match else None
