"""The page of acceptances: what may become annotations without a look, what was accepted, and what undoes it.

It has the rules of `lorabel accept` and of REST (docs/accept.md): the same bulk runs do the work.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flask import request
from sqlalchemy.orm import Session

from backend.acceptance_routes import LONGEST_EMAIL
from backend.pages.paging import Page, read_page
from backend.pages.project import link_of
from backend.services import Services
from lorabel.curation.reviews import SHOWN, read_review
from lorabel.database import acceptances
from lorabel.database import projects as project_rows
from lorabel.database.acceptance_records import promise
from lorabel.database.acceptance_tables import AcceptedState
from lorabel.database.tables import Acceptance, BulkRun, Project
from lorabel.errors import BadRequestError, ConflictError, LorabelError
from lorabel.label_studio.access import api_access, require_api_access

CONFIDENCE = 0.95
DEFAULT_PRECISION = 0.98
REASON = "asked for on the page"


@dataclass(frozen=True)
class Wish:
    """What is asked for: the part of accepted tasks that must be right, and whether of all labels together.

    `is_review`: whether people are to review a sample, before anything is annotated.
    """

    precision: float = DEFAULT_PRECISION
    is_together: bool = False
    is_review: bool = False


@dataclass(frozen=True)
class AcceptanceRow:
    """An acceptance in the list.

    Attributes:
        run: the bulk run that makes or undoes it; None if that was removed.
        counts: by `AcceptedState` the number of its tasks.
        review: what people say about its sample; empty if it has none.
        tab_link: to the tab of the sample in Label Studio; None if there is none.
    """

    acceptance: Acceptance
    run: BulkRun | None
    counts: Mapping[str, int]
    review: str = ""
    tab_link: str | None = None

    @property
    def can_be_undone(self) -> bool:
        """Whether some of it is in Label Studio."""
        return self.counts.get(AcceptedState.WRITTEN, 0) + self.counts.get(AcceptedState.SHOWN, 0) > 0


@dataclass(frozen=True)
class AcceptPage:
    """What the page shows.

    Attributes:
        newest: the newest acceptance that has found what is proved; None if there is none.
        promise: what `newest` promises, and what has to be true for it.
        covered: open tasks that `newest` would accept.
        fault: why nothing can be accepted; None if something can.
    """

    project: Project
    title: str | None
    newest: Acceptance | None
    promise: str
    covered: int
    wish: Wish
    rows: Page[AcceptanceRow]
    fault: str | None


@dataclass(frozen=True)
class AcceptQuestion:
    """What writing or undoing an acceptance would do. `undone`: the acceptance to undo; None to write one."""

    project: Project
    title: str | None
    wish: Wish
    undone: AcceptanceRow | None


def read_accept(services: Services, project_id: int) -> AcceptPage:
    """Read what the page shows. Raises NotFoundError if there is no such project."""
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        of_project = acceptances.list_of(session, project_id)
        page = read_page("page", lambda offset, limit: of_project[offset : offset + limit])
        counts = acceptances.count_states_of(session, [row.id for row in page.rows])
        link = link_of(services, project)
        rows = [
            AcceptanceRow(
                row,
                session.get(BulkRun, row.undo_run_id or row.run_id),
                counts[row.id],
                _said_in_review(session, project, row, counts[row.id]),
                f"{link}?tab={row.tab_id}"
                if link and row.tab_id and AcceptedState.SHOWN in counts[row.id]
                else None,
            )
            for row in page.rows
        ]
    newest = next((row for row in of_project if row.labels is not None), None)
    proofs = [] if newest is None else newest.labels or []
    fault = None
    if api_access(project, services.settings) is None:
        fault = (
            f"Nothing can be written without a token for Label Studio: `lorabel connect --project {project_id}`."
        )
    return AcceptPage(
        project,
        services.vitals.title(project_id),
        newest,
        "" if newest is None else promise(newest),
        sum(proof["tasks"] for proof in proofs if proof["score"] is not None),
        Wish() if newest is None else Wish(newest.precision, newest.is_together),
        Page(rows, page.number, page.has_more, page.name),
        fault,
    )


def _said_in_review(session: Session, project: Project, row: Acceptance, counts: Mapping[str, int]) -> str:
    """What people say about the sample of an acceptance; empty while there is none."""
    if row.review_size is None or not counts.keys() & set(SHOWN):
        return ""
    try:
        return str(read_review(session, project, row))
    except LorabelError as error:
        return str(error)


def read_wish(fields: Mapping[str, str]) -> Wish:
    """What a form asks for. Raises BadRequestError if the precision is no number between 0 and 1."""
    text = fields.get("precision", str(DEFAULT_PRECISION))
    try:
        precision = float(text)
    except ValueError:
        precision = 0.0
    if not 0 < precision < 1:
        raise BadRequestError(f"precision={text[:20]!r} is no number between 0 and 1")
    return Wish(precision, "together" in fields, "review" in fields)


def read_writing(services: Services, project_id: int) -> AcceptQuestion:
    """Read what accepting would do; the URL says what is asked for. Raises as `read_wish`, and NotFoundError."""
    wish = read_wish(request.args)
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
    return AcceptQuestion(project, services.vitals.title(project_id), wish, None)


def read_undoing(services: Services, project_id: int, acceptance_id: int) -> AcceptQuestion:
    """Read what undoing an acceptance would do.

    Raises:
        NotFoundError: no such acceptance.
        ConflictError: nothing of it is in Label Studio.
    """
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        acceptance = acceptances.get(session, project_id, acceptance_id)
        row = AcceptanceRow(acceptance, None, acceptances.count_states(session, acceptance_id))
    if not row.can_be_undone:
        raise ConflictError(f"nothing of acceptance {acceptance_id} is in Label Studio any more")
    wish = Wish(acceptance.precision, acceptance.is_together)
    return AcceptQuestion(project, services.vitals.title(project_id), wish, row)


def ask(services: Services, project_id: int, wish: Wish, email: str | None) -> BulkRun:
    """Queue a bulk run that finds what may be accepted.

    Args:
        email: of the user whose annotations the accepted predictions become; None: nothing is written.

    Raises:
        BadRequestError: the e-mail is none.
        NotFoundError: no such project.
        ConflictError: another acceptance goes on, or there is no token for Label Studio.
    """
    if email is not None and ("@" not in email or len(email) > LONGEST_EMAIL):
        raise BadRequestError(f"{email[:40]!r} is no e-mail of a user of Label Studio")
    _require_api_access(services, project_id)
    _, run = acceptances.request(
        services.store,
        project_id,
        REASON,
        precision=wish.precision,
        confidence=CONFIDENCE,
        is_together=wish.is_together,
        user_email=email,
        review_size=0 if wish.is_review else None,
    )
    return _start(services, run)


def undo(services: Services, project_id: int, acceptance_id: int) -> BulkRun:
    """Queue a bulk run that takes back what an acceptance has written. Raises as `acceptances.request_undo`."""
    _require_api_access(services, project_id)
    _, run = acceptances.request_undo(services.store, project_id, acceptance_id, f"{REASON}: undo")
    return _start(services, run)


def _start(services: Services, run: BulkRun) -> BulkRun:
    services.jobs.carry_out(run)
    services.active_runs.forget()
    return run


def _require_api_access(services: Services, project_id: int) -> None:
    with services.store.read() as session:
        require_api_access(project_rows.get(session, project_id), services.settings)
