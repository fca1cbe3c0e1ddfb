"""Annotators at work: each opens a task, looks at it, submits, and opens the next (the recorded labeling stream).

How long people look is drawn from the recorded `lead_time`s (tests/data/recordings), scaled to a mean. The program
that made the recordings clicks faster than most people, so the mean is a parameter, and the recordings give the
form. Label Studio sends the event of a submission, then asks for the next task, as in the recordings.
"""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simpy

from benchmarks.simulation.site import SimulatedProject, Site
from benchmarks.simulation.stations import Steps

RECORDINGS = Path(__file__).parents[2] / "tests" / "data" / "recordings"
HOURS = 24


@dataclass(frozen=True)
class Work:
    """What annotators do.

    Args:
        task_s: mean seconds from the answer to a prediction to the submission.
        zipf: popularity of the project of rank k is k ** -zipf.
        adapted: share of projects that an adapter answers; the others have the base model with a fitted head.
    """

    annotators: int = 50_000
    projects: int = 10_000
    task_s: float = 30.0
    zipf: float = 1.0
    adapted: float = 0.5


def recorded_lead_times() -> list[float]:
    """The `lead_time`s of all recorded submissions, in seconds."""
    bodies = [json.loads(path.read_text()).get("body") for path in sorted(RECORDINGS.glob("*/*.json"))]
    annotations: list[Any] = [body.get("annotation") for body in bodies if isinstance(body, dict)]
    return [
        float(annotation["lead_time"])
        for annotation in annotations
        if isinstance(annotation, dict) and annotation.get("lead_time")
    ]


def working_shares(begin: float, end: float, offsets_h: Sequence[float]) -> list[float]:
    """Share of the annotators that work, for each hour of a day in UTC.

    Args:
        begin, end: of the working day, in local hours.
        offsets_h: local time less UTC of the places where annotators live, with as many annotators in each.
    """
    return [
        sum(begin <= (hour + offset) % HOURS < end for offset in offsets_h) / len(offsets_h)
        for hour in range(HOURS)
    ]


def make_projects(work: Work, seed: int) -> list[SimulatedProject]:
    """The projects, the most popular first."""
    chance = random.Random(seed)
    return [
        SimulatedProject(rank, f"p{rank}.v1/label" if chance.random() < work.adapted else None)
        for rank in range(1, work.projects + 1)
    ]


def begin(env: simpy.Environment, site: Site, work: Work, at_work: int, seed: int) -> list[SimulatedProject]:
    """Let so many annotators work. Their first tasks are spread over the time of a task.

    Returns:
        The projects in which somebody works, the most popular first.
    """
    chance = random.Random(seed)
    lead_times = recorded_lead_times()
    scale = work.task_s / (sum(lead_times) / len(lead_times))
    projects = make_projects(work, seed)
    popularity = list(itertools.accumulate(rank**-work.zipf for rank in range(1, work.projects + 1)))
    chosen = chance.choices(projects, cum_weights=popularity, k=at_work)
    for project in chosen:
        env.process(_annotate(env, site, project, lead_times, scale, chance))
    worked_in = {project.id for project in chosen}
    return [project for project in projects if project.id in worked_in]


def _annotate(
    env: simpy.Environment,
    site: Site,
    project: SimulatedProject,
    lead_times: Sequence[float],
    scale: float,
    chance: random.Random,
) -> Steps:
    yield env.timeout(chance.random() * sum(lead_times) / len(lead_times) * scale)
    while True:
        task = yield from site.open_task(project)
        yield env.timeout(chance.choice(lead_times) * scale)
        yield from site.submit(project, task)
