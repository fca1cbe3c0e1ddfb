"""The demo that the pictures of the docs show: nine days of work on prints, in the real Label Studio.

Tasks, pictures and the base models that explain, search and predict are real. What annotators submitted and what
runs measured is drawn at random, from a fixed seed; figures of versions are computed from what was drawn by the
problem's own metrics.
"""

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from lorabel.contracts import LabelScores, LabelTarget
from lorabel.database import label_error_reports
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import (
    Acceptance,
    Annotation,
    BulkRun,
    BulkRunKind,
    ModelVersion,
    Project,
    RunState,
    TrainingRun,
    VersionState,
    now,
)
from lorabel.demo.pictures import Picture, random_pictures
from lorabel.demo.project import upload_project
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import AnnotatedTask
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

TITLE = "Prints: which motif?"
MOTIFS = ("circle", "square", "triangle", "star", "heart", "moon", "arrow", "flower")
# What a weak model takes a motif for.
TAKEN_FOR = dict(
    zip(MOTIFS, ("flower", "circle", "arrow", "flower", "moon", "heart", "triangle", "circle"), strict=True)
)
LABEL_CONFIG = (
    '<View><Image name="print" value="$image"/><Choices name="motif" toName="print">'
    + "".join(f'<Choice value="{motif}"/>' for motif in MOTIFS)
    + "</Choices></View>"
)
SIDE_PX = 256
TASKS, ANNOTATED, UNAIDED = 260, 220, 12
DAYS = 9
ANNOTATORS = (2, 3, 5)
JUDGED_ON = 48
BASE_SHARE = 0.6
# Of each version: annotations when it was trained, share of right answers, and whether it became live.
VERSIONS = (
    (16, 0.71, True),
    (36, 0.79, True),
    (60, 0.77, False),
    (95, 0.87, True),
    (140, 0.91, True),
    (190, 0.95, True),
)
ERRORS, DISPUTED = 5, 4
ACCEPTED = 26


@dataclass(frozen=True)
class Demo:
    """The project with its tasks.

    Attributes:
        project_id: our own id.
        tasks: as Label Studio has them, by their ids.
        pictures: what each of them shows.
    """

    project_id: int
    tasks: Sequence[AnnotatedTask]
    pictures: Sequence[Picture]


def pictures() -> list[Picture]:
    """The prints, always the same and in the same order."""
    return list(islice((picture for picture in random_pictures(41) if picture.shape in MOTIFS), TASKS))


def create_project(client: LabelStudio) -> LabelStudioId:
    """Create the project in Label Studio, with its pictures in the order of `pictures`."""
    files = []
    for number, picture in enumerate(pictures()):
        written = io.BytesIO()
        picture.draw(SIDE_PX).save(written, "JPEG", quality=90)
        files.append((f"print-{number:03d}.jpg", written.getvalue(), "image/jpeg"))
    return upload_project(client, TITLE, LABEL_CONFIG, files)


def write(store: Store, demo: Demo) -> None:
    """Write the history: versions v1 to v6 (v3 rejected), runs (one failed, one going on), annotations."""
    chance = random.Random(7)
    begun = now() - timedelta(days=DAYS)
    with store.write() as session:
        project = session.get_one(Project, demo.project_id)
        project.live_number = len(VERSIONS)
        shares = [BASE_SHARE]
        live = 0
        for number, (learned, share, is_live) in enumerate(VERSIONS, 1):
            at = begun + (now() - begun) * learned / ANNOTATED
            session.add(_run(demo, number, at))
            session.flush()
            session.add(
                _version(demo, number, live, learned, share, shares[live], at, is_live=is_live, chance=chance)
            )
            shares.append(share)
            live = number if is_live else live
        session.add_all(_late_runs(demo))
        session.add_all(_annotations(demo, begun, chance))
        session.flush()
        _write_bulk_runs(session, demo)


def _result(motif: str | None) -> list[dict[str, Any]]:
    if motif is None:
        return []
    return [{"from_name": "motif", "to_name": "print", "type": "choices", "value": {"choices": [motif]}}]


def _scores(share: float, chance: random.Random) -> tuple[dict[str, Any], str]:
    """The metrics of a model with a share of right answers, by the problem itself, and the one that decides."""
    binding: Problem = bind(LABEL_CONFIG).bindings[0]
    targets, outputs = [], []
    for place in range(JUDGED_ON):
        right = place % len(MOTIFS)
        is_right = place >= round((1 - share) * JUDGED_ON)
        guess = right if is_right else MOTIFS.index(TAKEN_FOR[MOTIFS[right]])
        sure = chance.uniform(0.7, 0.99) if is_right else chance.uniform(0.4, 0.8)
        rest = (1 - sure) / (len(MOTIFS) - 1)
        probabilities = tuple(sure if index == guess else rest for index in range(len(MOTIFS)))
        targets.append(LabelTarget(indices=(right,)))
        outputs.append(LabelScores(probabilities=probabilities))
    metrics = binding.metrics(targets, outputs)
    return {"tasks": JUDGED_ON, **metrics.values}, metrics.primary


def _version(
    demo: Demo,
    number: int,
    parent: int,
    learned: int,
    share: float,
    live_share: float,
    at: datetime,
    *,
    is_live: bool,
    chance: random.Random,
) -> ModelVersion:
    (candidate, metric), (live, _) = _scores(share, chance), _scores(live_share, chance)
    verdict = "better than" if is_live else "no better than"
    values = f"{metric} {candidate[metric]:.3f} is {verdict} live's {live[metric]:.3f}"
    state = VersionState.LIVE if number == len(VERSIONS) else VersionState.RETIRED
    return ModelVersion(
        project_id=demo.project_id,
        number=number,
        parent=parent,
        state=state if is_live else VersionState.REJECTED,
        base_models={"motif": "lorabel/demo/model"},
        # The live version answers as the base model does, which is real; no adapter was trained for it.
        adapters={},
        metrics={
            "candidate": {"motif": candidate},
            "live": {"motif": live},
            "primary": {"motif": metric},
            "decision": f"motif: {values} on {JUDGED_ON} held-out tasks",
        },
        trained_on=list(range(1, learned + 1)),
        run_id=number,
        created_at=at + timedelta(minutes=2),
        promoted_at=at + timedelta(minutes=2) if is_live else None,
    )


def _run(demo: Demo, number: int, at: datetime, **more: Any) -> TrainingRun:
    losses = [[step, round(2.1 / (1 + step / (6 + number)) + 0.06 * ((step * 7) % 5), 4)] for step in range(1, 81)]
    columns: dict[str, Any] = {
        "state": RunState.FINISHED,
        "step": 80,
        "steps": 80,
        "loss": losses[-1][1],
        "losses": {"motif": losses},
        "decision": "made a version",
        "version_number": number,
        "finished_at": at + timedelta(seconds=74),
    }
    return TrainingRun(
        project_id=demo.project_id,
        reason="20 new annotations",
        config={"rank": 8, "alpha": 16, "learning_rate": 0.0005, "steps": 80, "batch": 16, "held out": JUDGED_ON},
        metrics={"skipped": {}, "left_out": {}},
        created_at=at,
        started_at=at,
        heartbeat_at=now() + timedelta(days=1),
        **{**columns, **more},
    )


def _late_runs(demo: Demo) -> list[TrainingRun]:
    """A run that failed, and one that goes on."""
    nothing = {"version_number": None, "decision": None}
    failed = {"state": RunState.FAILED, "error": "DATA_DIR is full: 0.1 GB are free, 1 GB is needed", "step": 12}
    going_on = {"state": RunState.RUNNING, "step": 31, "seconds_left": 46.0, "finished_at": None}
    return [
        _run(demo, 7, now() - timedelta(hours=20), **nothing, **failed),
        _run(demo, 8, now() - timedelta(seconds=29), **nothing, **going_on),
    ]


def _annotations(demo: Demo, begun: datetime, chance: random.Random) -> Iterator[Annotation]:
    """One of each of the first tasks, later ones with pre-annotations by better versions; some are disputed."""
    for number in range(1, ANNOTATED + 1):
        task, motif = demo.tasks[number - 1], demo.pictures[number - 1].shape
        at = _at_work(begun, number / ANNOTATED, chance)
        version = max(
            (place for place, (learned, _, is_live) in enumerate(VERSIONS, 1) if is_live and learned < number),
            default=0,
        )
        share = VERSIONS[version - 1][1] if version else BASE_SHARE
        is_right = chance.random() < share
        guess = None if number <= UNAIDED else motif if is_right else TAKEN_FOR[motif]
        truth = TAKEN_FOR[motif] if number in _wrong(number) else motif
        seconds = (
            chance.uniform(9, 17)
            if guess is None
            else chance.uniform(2.5, 5)
            if is_right
            else chance.uniform(6, 12)
        )
        yield Annotation(
            project_id=demo.project_id,
            id=number,
            task_id=task.task_id,
            task_data=task.data,
            result=_result(truth),
            completed_by=ANNOTATORS[number % len(ANNOTATORS)],
            lead_time_s=round(seconds, 1),
            prediction_id=None if guess is None else number,
            prediction_version=None if guess is None else f"p{demo.project_id}.v{version}",
            prediction_score=None
            if guess is None
            else chance.betavariate(9, 1)
            if is_right
            else chance.uniform(0.3, 0.9),
            prediction_result=None if guess is None else _result(guess),
            is_accepted=None if guess is None else truth == guess,
            updated_at=at,
            received_at=at,
        )
    for place in range(DISPUTED):
        number = ANNOTATED - 9 * place
        yield Annotation(
            project_id=demo.project_id,
            id=1000 + place,
            task_id=demo.tasks[number - 1].task_id,
            task_data=demo.tasks[number - 1].data,
            result=_result(TAKEN_FOR[demo.pictures[number - 1].shape]),
            completed_by=ANNOTATORS[(number + 1) % len(ANNOTATORS)],
            updated_at=now() - timedelta(hours=1 + place),
            received_at=now() - timedelta(hours=1 + place),
        )


def _wrong(number: int) -> set[int]:
    """Numbers of the annotations that are wrong: every thirty-seventh, of the first ERRORS * 37."""
    return {number} if number % 37 == 0 and number <= ERRORS * 37 else set()


def _at_work(begun: datetime, share: float, chance: random.Random) -> datetime:
    """A time between eight and five on one of the days, the later the larger the share; at most now."""
    place = share * DAYS
    day, part = min(DAYS - 1, int(place)), place - int(place)
    start = (begun + timedelta(days=day + 1)).replace(hour=8, minute=0, second=0, microsecond=0)
    return min(start + timedelta(hours=9 * part, seconds=chance.uniform(0, 60)), now())


def _write_bulk_runs(session: Any, demo: Demo) -> None:
    """Predictions, an order and label errors that have finished, and an acceptance that has written."""
    for number, (kind, reason, hours, total) in enumerate(
        (
            (BulkRunKind.PREDICTIONS, "lorabel preannotate", 150, TASKS),
            (BulkRunKind.INDEX, "asked for on the page", 100, TASKS),
            (BulkRunKind.ORDER, "lorabel order", 60, TASKS - 140),
            (BulkRunKind.LABEL_ERRORS, "asked for on the page", 5, ANNOTATED),
            (BulkRunKind.ACCEPTANCE, "asked for on the page", 2, TASKS - ANNOTATED),
        ),
        1,
    ):
        at = now() - timedelta(hours=hours)
        session.add(
            BulkRun(
                id=number,
                project_id=demo.project_id,
                state=RunState.FINISHED,
                kind=kind,
                reason=reason,
                only_unlabeled=kind in (BulkRunKind.ORDER, BulkRunKind.ACCEPTANCE),
                total=total,
                done=total,
                version_number=len(VERSIONS),
                created_at=at,
                started_at=at,
                finished_at=at + timedelta(seconds=0.3 * total),
            )
        )
    session.flush()
    errors = [
        {
            "from_name": "motif",
            "task_id": demo.tasks[number - 1].task_id,
            "annotation_id": number,
            "given": TAKEN_FOR[demo.pictures[number - 1].shape],
            "suggested": demo.pictures[number - 1].shape,
            "score": round(0.004 * number / 37, 4),
        }
        for number in range(37, ERRORS * 37 + 1, 37)
    ]
    label_error_reports.write(session, session.get_one(BulkRun, 4), ANNOTATED, errors, [])
    session.add(_acceptance(demo))
    session.flush()
    session.add_all(
        AcceptedTask(
            acceptance_id=1,
            task_id=task.task_id,
            project_id=demo.project_id,
            result=[],
            score=0.97,
            state=AcceptedState.WRITTEN,
        )
        for task in demo.tasks[ANNOTATED : ANNOTATED + ACCEPTED]
    )


def _acceptance(demo: Demo) -> Acceptance:
    labels = []
    for place, motif in enumerate(MOTIFS):
        is_proved = place % 4 != 3
        proof: dict[str, Any] = {"cases": 62 - 5 * place, "errors": 0 if is_proved else 4, "most_errors": 2}
        if is_proved:
            count = 8 - place
            proof |= {
                "score": 0.86 + 0.02 * place,
                "tasks": count,
                "bound": 0.951,
                "expected_errors": 0.02 * count,
            }
            proof |= {"needed": None, "reason": ""}
        else:
            proof |= {"score": None, "tasks": 0, "bound": 0.0, "expected_errors": 0.0, "needed": 90}
            proof["reason"] = f"{proof['cases']} cases, {proof['errors']} of them wrong, prove too little"
        labels.append({"label": motif, **proof})
    return Acceptance(
        project_id=demo.project_id,
        run_id=5,
        precision=0.95,
        confidence=0.95,
        is_together=False,
        is_written=True,
        user_email="machine@example.com",
        version=f"p{demo.project_id}.v{len(VERSIONS)}",
        cases_from="the tasks that no training run has read yet, answered by the live version",
        labels=labels,
        warnings=[],
        created_at=now() - timedelta(hours=2),
    )
