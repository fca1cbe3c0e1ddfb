"""A project with a history whose figures are known: what its pages must say."""

import base64
import io
from datetime import timedelta
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

from lorabel.database import label_error_reports, rules
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import Store
from lorabel.database.tables import (
    Acceptance,
    Annotation,
    BulkRun,
    BulkRunKind,
    ModelVersion,
    Project,
    RuleEffect,
    RunState,
    TaskOutcome,
    TrainingRun,
    VersionState,
    now,
)

LABELS = ("circle", "square", "star")
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="shape" toName="image">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
ADDRESS = "http://labels.example.com:8080"
# Annotated label, label that was shown (None: no pre-annotation), version, how often.
BY_BASE = (("circle", "circle", 12), ("circle", "square", 8), ("square", "square", 10), ("star", "circle", 10))
BY_V3 = (("circle", "circle", 60), ("square", "square", 50), ("star", "star", 20), ("star", "square", 2))
BY_HAND = 30
EMPTIED = 3
PICTURE_SIZE = (120, 90)
COUNTRIES = ("DE", "FR", "PL")
RULES = """# Agreed on with the annotators in October.
[[exclusive]]
name = "one shape"
labels = ["circle", "star"]

[[field]]
name = "no stars in the north"
field = "country"
is = ["NO", "SE"]
forbidden = ["star"]
"""


def result(label: str | None) -> list[dict[str, Any]]:
    """The result of an annotation or prediction with a choice; empty without."""
    if label is None:
        return []
    return [{"from_name": "shape", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


@cache
def picture(label: str | None) -> str:
    """The address of a picture of a shape, which is in the address itself."""
    image = Image.new("RGB", PICTURE_SIZE, "white")
    draw = ImageDraw.Draw(image)
    if label == "circle":
        draw.ellipse((30, 15, 90, 75), fill="teal")
    elif label == "square":
        draw.rectangle((32, 17, 88, 73), fill="firebrick")
    else:
        draw.regular_polygon((60, 45, 34), 3, fill="goldenrod")
    written = io.BytesIO()
    image.save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def scores(accuracy: float, tasks: int = 40) -> dict[str, Any]:
    """Metrics as a run stores them."""
    right = round(accuracy * tasks)
    return {
        "tasks": tasks,
        "accuracy": right / tasks,
        "macro_f1": right / tasks,
        "per_class": {label: {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 13} for label in LABELS},
        "labels": list(LABELS),
        "confusion": [[12, 1, 0], [0, 13, 0], [tasks - right - 1, 0, 14]],
        "log_loss": 1 - accuracy / 2,
    }


def version(
    number: int, parent: int, state: VersionState, accuracy: float, live: float, **more: Any
) -> ModelVersion:
    """A version of project 1."""
    verdict = "better than" if accuracy > live else "worse than"
    decision = f"shape: accuracy {accuracy:.3f} is {verdict} live's {live:.3f} on 40 held-out tasks"
    return ModelVersion(
        project_id=1,
        number=number,
        parent=parent,
        state=state,
        base_models={"shape": "hf-hub:base"},
        adapters={"shape": f"p1.v{number}/shape"},
        metrics={
            "candidate": {"shape": scores(accuracy)},
            "live": {"shape": scores(live)},
            "primary": {"shape": "accuracy"},
            "decision": decision,
        },
        trained_on=list(range(1, 40 * number)),
        run_id=number,
        created_at=now() - timedelta(days=4 - number, hours=2),
        promoted_at=None if state == VersionState.REJECTED else now() - timedelta(days=4 - number, hours=1),
        **more,
    )


def run(number: int, state: RunState, **more: Any) -> TrainingRun:
    """A training run of project 1; in an empty database the runs must be added in the order of their numbers."""
    begun = now() - timedelta(days=max(0, 4 - number), hours=3)
    ended = None if state in (RunState.RUNNING, RunState.QUEUED) else begun + timedelta(seconds=95)
    losses = {"shape": [[step, 2.0 / (1 + step / 8) + 0.05 * (step % 3)] for step in range(1, 61)]}
    columns: dict[str, Any] = {
        "reason": "40 new annotations",
        "step": 60,
        "steps": 60,
        "loss": 0.24,
        "losses": losses,
        "config": {"rank": 8, "learning_rate": 0.0005, "steps": 60, "compared": "nothing differs"},
        "metrics": {"skipped": {"shape": {"7": "the picture cannot be read"}}, "left_out": {}},
        "created_at": begun,
        "started_at": begun,
        "finished_at": ended,
        "heartbeat_at": now() + timedelta(days=1),
    }
    return TrainingRun(project_id=1, state=state, **{**columns, **more})


def write(store: Store, *, is_running: bool = True) -> None:
    """Write the project: versions v1 to v3 (v2 rejected), runs (one failed, one running), and annotations."""
    with store.write() as session:
        session.add(
            Project(
                id=1,
                label_config=CONFIG,
                label_studio_url=ADDRESS,
                hostname=ADDRESS,
                live_number=3,
            )
        )
        session.flush()
        session.add_all(
            [
                version(1, 0, VersionState.RETIRED, 0.75, 0.55),
                version(2, 1, VersionState.REJECTED, 0.7, 0.75),
                version(3, 1, VersionState.LIVE, 0.925, 0.75),
            ]
        )
        session.add_all(
            [
                *(run(number, RunState.FINISHED, version_number=number, decision="made") for number in (1, 2, 3)),
                run(4, RunState.FAILED, error="the device has no memory left", loss=None, losses=None),
            ]
        )
        if is_running:
            session.add(run(5, RunState.RUNNING, step=18, seconds_left=42.0, metrics=None))
        session.add(
            BulkRun(
                project_id=1,
                state=RunState.FINISHED,
                kind=BulkRunKind.PREDICTIONS,
                reason="lorabel preannotate",
                only_unlabeled=True,
                total=120,
                done=118,
                failed=2,
                failures=[{"task_id": 9, "reason": "the picture cannot be read"}],
                created_at=now() - timedelta(hours=5),
                started_at=now() - timedelta(hours=5),
                finished_at=now() - timedelta(hours=4, minutes=58),
            )
        )
        session.add_all(_annotations())
        session.add_all(_outcomes())


def write_reviews(store: Store) -> None:
    """Write what makes people look at tasks: a second annotator's other opinion, and label errors; an acceptance;
    and project 2, whose error falls with the root of the number of annotations."""
    with store.write() as session:
        session.get_one(Project, 1).api_key = "a token"
        session.add(_acceptance())
        session.flush()
        session.add_all(
            [
                AcceptedTask(acceptance_id=1, task_id=number, project_id=1, result=[], state=AcceptedState.WRITTEN)
                for number in range(1, 42)
            ]
        )
        first = session.get_one(Annotation, (1, 200))
        columns = {"task_data": first.task_data, "updated_at": now(), "completed_by": 8, "task_id": first.task_id}
        session.add(Annotation(project_id=1, id=900, result=result("star"), **columns))
        errors = [
            {
                "from_name": "shape",
                "task_id": 1000 + number,
                "annotation_id": number,
                "given": LABELS[number % 3],
                "suggested": LABELS[(number + 1) % 3],
                "score": number / 1000,
            }
            for number in range(11, 15)
        ]
        run = session.get_one(BulkRun, 1)
        label_error_reports.write(session, run, checked=205, errors=errors, left_out=[])
        session.add(Project(id=2, label_config=CONFIG, label_studio_url=ADDRESS, hostname=ADDRESS, live_number=6))
        session.flush()
        for number in range(1, 7):
            measured = scores(1 - 0.5 * 2 ** -((number - 1) / 2), tasks=200)
            state = VersionState.LIVE if number == 6 else VersionState.RETIRED
            row = version(number, number - 1, state, 0.9, 0.8)
            row.project_id, row.run_id = 2, None
            row.created_at = row.promoted_at = now() - timedelta(days=7 - number)
            row.trained_on = list(range(40 * 2 ** (number - 1)))
            row.metrics = {**row.metrics, "candidate": {"shape": measured}}
            session.add(row)


def write_rules(store: Store) -> None:
    """Give project 2 rules, which have removed something."""
    rules.set_file(store, 2, RULES)
    circle = ("one shape", "star", "'circle' is likelier (0.81)")
    north = ("no stars in the north", "star", "country is 'NO'")
    with store.write() as session:
        session.add_all(
            RuleEffect(
                project_id=2,
                task_id=40 + number,
                rule=rule,
                version="p2.v6.r1",
                count=1,
                removals=[{"from_name": "shape", "what": what, "is_text": False, "why": why}],
            )
            for number, (rule, what, why) in enumerate([circle, north] * 4)
        )


def _acceptance() -> Acceptance:
    proof = {"cases": 71, "errors": 0, "tasks": 41, "expected_errors": 0.4, "most_errors": 2, "bound": 0.951}
    missing = {**proof, "score": None, "cases": 32, "errors": 3, "needed": 210, "reason": "32 cases are too few"}
    return Acceptance(
        project_id=1,
        run_id=1,
        precision=0.95,
        confidence=0.95,
        is_together=False,
        is_written=True,
        user_email="machine@example.com",
        version="p1.v3",
        cases_from="the tasks that no training run has read yet, answered by the live version",
        labels=[
            {"label": "circle", "score": 0.913, "needed": None, "reason": "", **proof},
            {"label": "star", **missing},
        ],
        warnings=[],
    )


def _outcomes() -> list[TaskOutcome]:
    """Of the 40 tasks that v3 was judged on, it answers 8 better than v1, and one worse; v1 also has answers of
    its own run, with 10 better than the base models, on half of these tasks."""
    rows = []
    for number, changes in ((1, {1: range(10)}), (3, {1: range(8), -1: range(8, 9)})):
        tasks = range(20) if number == 1 else range(40)
        for place in tasks:
            truth = LABELS[place % 3]
            wrong = result(LABELS[(place + 1) % 3])
            is_better, is_worse = place in changes[1], place in changes.get(-1, ())
            rows.append(
                TaskOutcome(
                    project_id=1,
                    number=number,
                    from_name="shape",
                    task_id=1001 + place,
                    value=0.0 if is_worse else 1.0,
                    live_value=0.0 if is_better else 1.0,
                    result=wrong if is_worse else result(truth),
                    live_result=wrong if is_better else result(truth),
                )
            )
    return rows


def _annotations() -> list[Annotation]:
    """The newest are of the last hours. Tasks with a pre-annotation take 6 s, others 15 s."""
    cases: list[tuple[str | None, str | None, str | None]] = [(LABELS[i % 3], None, None) for i in range(BY_HAND)]
    for name, rows in (("p1.v0", BY_BASE), ("p1.v3.h2", BY_V3)):
        # One of each kind after the other, so that the course is even.
        counted = [[(truth, guess, name)] * count for truth, guess, count in rows]
        mixed = [(i / len(kind), case) for kind in counted for i, case in enumerate(kind)]
        cases += [case for _, case in sorted(mixed, key=lambda pair: pair[0])]
    cases += [(None, "star", "p1.v3.h2")] * EMPTIED
    begun = now() - timedelta(minutes=10 * len(cases))
    return [
        Annotation(
            project_id=1,
            id=number,
            task_id=1000 + number,
            task_data={"image": picture(truth), "country": COUNTRIES[number % 3]},
            result=result(truth),
            lead_time_s=15.0 if guess is None else 6.0,
            prediction_id=None if guess is None else number,
            prediction_version=name,
            prediction_score=None if guess is None else 0.6 + 0.4 * (number * 37 % 100) / 100,
            prediction_result=None if guess is None else result(guess),
            is_accepted=None if guess is None else truth == guess,
            updated_at=begun + timedelta(minutes=10 * number),
            received_at=begun + timedelta(minutes=10 * number),
        )
        for number, (truth, guess, name) in enumerate(cases, 1)
    ]
