"""REST routes of acceptances: predictions that become annotations where cases prove that enough are right."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Self

from flask import Blueprint
from pydantic import Field, model_validator

from backend import http_bodies
from backend.http_bodies import Body, read_body
from backend.project_routes import PROJECT, as_json
from backend.rest_responses import Record
from backend.services import services
from lorabel.curation.reviews import Review, Verdict, read_review
from lorabel.database import acceptances, projects
from lorabel.database.acceptance_records import acceptance_record
from lorabel.database.tables import Acceptance, BulkRun
from lorabel.label_studio.access import require_api_access

blueprint = Blueprint("acceptances", __name__, url_prefix="/api/v1")
ACCEPTANCES = f"{PROJECT}/acceptances"
ACCEPTANCE = f"{ACCEPTANCES}/<int(max={http_bodies.LARGEST_ID}):acceptance_id>"
LONGEST_EMAIL = 254
MOST_REVIEWED = 100_000
Part = Annotated[float, Field(gt=0, lt=1)]
Answer = dict[str, Any]


class Accept(Body):
    """Body of `POST .../acceptances`. `precision`: the part of the accepted tasks that must be right, with the
    probability `confidence`. `together`: one promise about all labels, not one for each. `user`: e-mail of the
    user whose annotations the accepted predictions become; without it, no annotation is written. `review`: write
    predictions in place of annotations, with a tab for a random sample of so many of them, for people to review;
    0 for as many as prove the promise if none is wrong."""

    precision: Part = 0.98
    confidence: Part = 0.95
    together: bool = False
    user: Annotated[str, Field(min_length=1, max_length=LONGEST_EMAIL)] | None = None
    review: Annotated[int, Field(ge=0, le=MOST_REVIEWED)] | None = None

    @model_validator(mode="after")
    def check_user(self) -> Self:
        """Refuse a user beside a review."""
        if self.user is not None and self.review is not None:
            raise ValueError("expected user or review, not both: what is reviewed is not annotated yet")
        return self


class LabelProof(Record):
    """What is proved about a label; `label` is empty for all labels together. Predictions with at least `score`
    may be accepted; null if nothing is proved, for `reason`, and about `needed` more cases would prove it. `cases`
    with such scores, `errors` of them wrong; open `tasks` with such scores, of which `expected_errors` are
    probably wrong, and with the confidence asked for not more than `most_errors`, so that at least the part
    `bound` is right."""

    label: str
    score: float | None
    cases: int
    errors: int
    tasks: int
    expected_errors: float
    most_errors: int
    bound: float
    needed: int | None
    reason: str


class AcceptanceRecord(Record):
    """An acceptance. `run_id` and `undo_run_id`: its bulk runs, see `preannotations`. `labels`: null until the run
    has found what is proved. `review_size`: null without a review; `tab_id`: its tab in Label Studio. `tasks`: by
    state the number of tasks: `planned`, `written`, `shown` (a prediction for review), `annotated` (somebody had
    annotated the task meanwhile), and after an undo `removed`, `changed` (left, since somebody has changed it),
    and `gone`."""

    id: int
    run_id: int
    undo_run_id: int | None
    precision: float
    confidence: float
    is_together: bool
    is_written: bool
    review_size: int | None
    tab_id: int | None
    user_email: str | None
    version: str | None
    cases_from: str | None
    labels: list[LabelProof] | None
    warnings: list[str]
    created_at: datetime
    promise: str
    tasks: dict[str, int]


class AcceptanceList(Record):
    """The acceptances of a project, the newest first."""

    acceptances: list[AcceptanceRecord]


class ReviewRecord(Record):
    """What people say about a random sample so far. `tasks`: the predictions that the promise is about; `sampled`
    of them were drawn, of which `reviewed` have an annotation, `wrong` of these say something else, and `skipped`
    have a skip alone. `unjudged`: the annotation does not say whether the prediction is right, or the label config
    has changed. `estimate`: the part of the reviewed that is right; with `confidence`, that of all lies from `low`
    to `high`, whatever the others of the sample are. `verdict`: whether the promise about `precision` holds."""

    tasks: int
    sampled: int
    reviewed: int
    wrong: int
    skipped: int
    unjudged: int
    precision: float
    confidence: float
    estimate: float | None
    low: float
    high: float
    verdict: Verdict

    @classmethod
    def of(cls, review: Review) -> Self:
        """The record of what came of a review so far."""
        low, high = review.interval
        return cls(**asdict(review), estimate=review.estimate, low=low, high=high, verdict=review.verdict)


@blueprint.post(ACCEPTANCES)
def accept(project_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that finds which predictions may be accepted, and writes these if a user is named."""
    body = http_bodies.parse(Accept, read_body() or b"{}")
    _require_api_access(project_id)
    acceptance, run = acceptances.request(
        services().store,
        project_id,
        "asked for over REST",
        precision=body.precision,
        confidence=body.confidence,
        is_together=body.together,
        user_email=body.user,
        review_size=body.review,
    )
    return _start(acceptance, run)


@blueprint.get(ACCEPTANCES)
def list_acceptances(project_id: int) -> Answer:
    """List the acceptances of a project, the newest first."""
    with services().store.read() as session:
        projects.get(session, project_id)
        rows = acceptances.list_of(session, project_id)
        records = [_record(row, acceptances.count_states(session, row.id)) for row in rows]
    return as_json(AcceptanceList(acceptances=records))


@blueprint.get(f"{ACCEPTANCE}/review")
def show_review(project_id: int, acceptance_id: int) -> Answer:
    """Show what people say about the sample of an acceptance for review, and whether its promise holds."""
    with services().store.read() as session:
        project = projects.get(session, project_id)
        acceptance = acceptances.get(session, project_id, acceptance_id)
        return as_json(ReviewRecord.of(read_review(session, project, acceptance)))


@blueprint.post(f"{ACCEPTANCE}/undo")
def undo(project_id: int, acceptance_id: int) -> tuple[Answer, int]:
    """Queue a bulk run that takes back what an acceptance has written, as far as nobody has changed it."""
    _require_api_access(project_id)
    return _start(
        *acceptances.request_undo(services().store, project_id, acceptance_id, "asked for over REST: undo")
    )


def _start(acceptance: Acceptance, run: BulkRun) -> tuple[Answer, int]:
    services().jobs.carry_out(run)
    with services().store.read() as session:
        counts = acceptances.count_states(session, acceptance.id)
    return as_json(_record(acceptance, counts)), 202


def _record(acceptance: Acceptance, counts: dict[str, int]) -> AcceptanceRecord:
    return AcceptanceRecord.model_validate(acceptance_record(acceptance, counts))


def _require_api_access(project_id: int) -> None:
    """Refuse what could not be written to Label Studio, nor read from there."""
    with services().store.read() as session:
        require_api_access(projects.get(session, project_id), services().settings)
