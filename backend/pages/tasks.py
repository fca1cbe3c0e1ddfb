"""The page of a project's tasks: found by search, or worth a look for a reason that is said.

Only what is known is shown: an empty list says what makes it known.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from flask import request
from sqlalchemy.orm import Session

from backend.http_bodies import LARGEST_ID
from backend.pages.formats import percent, score
from backend.pages.paging import Page, read_page
from backend.pages.project import MOST_ANSWERS, label_studio_url, link_of
from backend.pages.task_previews import Preview
from backend.pages.thumbnails import LARGE_PX, SIDE_PX
from backend.project_routes import read_number
from backend.search_routes import MAX_QUERY_LENGTH
from backend.services import Services, prediction_slot
from lorabel.database import bulk_runs, disagreements, label_error_reports, newest_answers, task_embeddings
from lorabel.database import projects as project_rows
from lorabel.database.newest_answers import Answer
from lorabel.database.tables import BulkRun, BulkRunKind, LabelErrorReport, Project
from lorabel.errors import (
    BadRequestError,
    ConflictError,
    LabelConfigError,
    LabelStudioError,
    ModelServerError,
    NotFoundError,
    UnreadableError,
)
from lorabel.evaluation.agreement import Outcome
from lorabel.label_studio.access import require_api_access, task_link
from lorabel.label_studio.project_identity import project_client
from lorabel.labeling.named_labels import named_labels

HITS = 50
OPEN_TASKS = 25
LABEL_STUDIO_TIMEOUT_S = 5.0
# What keeps a list from being read, and is said in its place.
FAULTS = (ConflictError, LabelConfigError, LabelStudioError, ModelServerError, NotFoundError)


class Show(StrEnum):
    """Which tasks are listed."""

    SEARCH = "search"
    UNSURE = "unsure"
    MODEL = "model"
    ANNOTATORS = "annotators"
    ERRORS = "errors"


NAMES: Mapping[Show, str] = {
    Show.SEARCH: "Search",
    Show.UNSURE: "Least certain",
    Show.MODEL: "Model was corrected",
    Show.ANNOTATORS: "Annotators disagree",
    Show.ERRORS: "Probable label errors",
}
COLUMNS: Mapping[Show, Sequence[str]] = {
    Show.SEARCH: ("Similarity",),
    Show.UNSURE: ("Score", "Predicted"),
    Show.MODEL: ("Model's score", "Predicted", "Submitted"),
    Show.ANNOTATORS: ("Annotations", "What they say"),
    Show.ERRORS: ("Control tag", "Annotated as", "Probably", "Why"),
}


@dataclass(frozen=True)
class TaskRow:
    """A task in the list. `cells`: one for each of the list's columns; `link`: to the task in Label Studio."""

    task_id: int
    cells: Sequence[str]
    link: str | None
    preview: Preview


@dataclass(frozen=True)
class Listing:
    """The tasks of a list with the cells of each.

    Attributes:
        note: what the list is, and of how many tasks.
        empty: what makes tasks appear here, with commands between backticks; said if there are none.
        fault: why the list cannot be read; None if it can.
    """

    page: Page[tuple[int, Sequence[str]]]
    note: str = ""
    empty: str = ""
    fault: str | None = None


@dataclass(frozen=True)
class TasksPage:
    """What the page shows. `query` and `like`: what is searched for, as far as anything is."""

    project: Project
    title: str | None
    label_studio_link: str | None
    show: Show
    columns: Sequence[str]
    listing: Listing
    rows: Page[TaskRow]
    query: str
    like: int | None


def read_tasks(services: Services, project_id: int) -> TasksPage:
    """Read what the page shows. The URL's `show` chooses the list; `q` or `like` is searched for.

    Raises:
        NotFoundError: no such project.
        BadRequestError: a field of the URL is none that is known.
    """
    show, query = _read_show(), request.args.get("q", "").strip()
    like = read_number("like", 0, LARGEST_ID) or None
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
    try:
        listing = _list(services, project, show, query, like)
    except FAULTS as error:
        listing = Listing(Page([], 1, False, "page"), fault=str(error))
    task_ids = [task_id for task_id, _ in listing.page.rows]
    previews = services.previews.read(project, task_ids)
    url = label_studio_url(services, project)
    rows = [
        TaskRow(
            task_id,
            cells,
            None if url is None else task_link(project, url, task_id),
            previews.get(task_id, Preview()),
        )
        for task_id, cells in listing.page.rows
    ]
    page = Page(rows, listing.page.number, listing.page.has_more, listing.page.name)
    title, link = services.vitals.title(project_id), link_of(services, project)
    return TasksPage(project, title, link, show, COLUMNS[show], listing, page, query, like)


def request_index(services: Services, project_id: int) -> BulkRun:
    """Queue a bulk run that embeds all tasks.

    Raises:
        NotFoundError: no such project.
        ConflictError: there is no token for its Label Studio.
    """
    with services.store.read() as session:
        require_api_access(project_rows.get(session, project_id), services.settings)
    return bulk_runs.request(services.store, project_id, "asked for on the page", kind=BulkRunKind.INDEX)


def read_thumbnail(services: Services, project_id: int, task_id: int) -> bytes:
    """The JPEG of a task's first picture; the parameter `large` of the URL asks for a larger picture.

    Raises:
        NotFoundError: no such project.
        UnreadableError: the task has no picture that can be read.
    """
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
    preview = services.previews.read(project, [task_id]).get(task_id, Preview())
    if preview.picture_url is None:
        raise UnreadableError(f"task {task_id} of project {project_id} shows no picture", is_permanent=False)
    side_px = LARGE_PX if "large" in request.args else SIDE_PX
    return services.thumbnails.get(project, preview.picture_url, side_px)


def _read_show() -> Show:
    text = request.args.get("show", Show.SEARCH)
    if text not in list(Show):
        raise BadRequestError(f"show={text[:20]!r} is none of {', '.join(Show)}")
    return Show(text)


def _list(services: Services, project: Project, show: Show, query: str, like: int | None) -> Listing:
    if show is Show.SEARCH:
        return _search(services, project, query, like)
    if show is Show.UNSURE:
        return _least_certain(services, project)
    read = READERS[show]
    with services.store.read() as session:
        return read(session, project)


def _search(services: Services, project: Project, query: str, like: int | None) -> Listing:
    if len(query) > MAX_QUERY_LENGTH:
        raise BadRequestError(f"q has {len(query)} characters, at most {MAX_QUERY_LENGTH} are read")
    if not query and like is None:
        with services.store.read() as session:
            embedded = sum(task_embeddings.count_by_space(session, project.id).values())
        return Listing(
            Page([], 1, False, "page"),
            empty=f"{embedded:,} tasks can be found. A search looks at tasks that are new for at most 10 seconds; "
            "the button above begins a run that goes through all of them.",
        )
    with prediction_slot(services):
        if like is None:
            result = services.searcher.by_text(project.id, query, HITS)
        else:
            result = services.searcher.like_task(project.id, like, HITS)
    note = f"The nearest of {result.indexed:,} tasks."
    if result.missing:
        note += f" {result.missing:,} more are not embedded yet, or cannot be: `lorabel index {project.id}`."
    hits = [(hit.task_id, (f"{hit.similarity:.3f}",)) for hit in result.hits]
    return Listing(Page(hits, 1, False, "page"), note, f"No task is embedded yet: `lorabel index {project.id}`.")


def _least_certain(services: Services, project: Project) -> Listing:
    """Open tasks by the score of their predictions, as Label Studio has them."""
    access = require_api_access(project, services.settings, "its open tasks cannot be read")
    with project_client(project, access, LABEL_STUDIO_TIMEOUT_S) as client:
        page = client.open_tasks_by_score(project.label_studio_id, OPEN_TASKS)
    services.previews.keep(project, {task.task_id: task.data for task in page.tasks})
    rows = []
    for task in page.tasks:
        scored = [row for row in task.predictions if isinstance(row.get("score"), int | float)]
        if scored:
            lowest = min(scored, key=lambda row: float(row["score"]))
            rows.append((task.task_id, (score(lowest["score"]), _words(named_labels(lowest["result"])))))
    return Listing(
        Page(rows, 1, False, "page"),
        f"Of {page.total:,} open tasks, those whose predictions have the lowest scores in Label Studio. After "
        "`lorabel order` the score is the place in that order.",
        f"No open task has a prediction in Label Studio: `lorabel preannotate {project.id}` writes predictions, "
        f"and `lorabel order {project.id}` puts open tasks into the order in which they teach most.",
    )


def _corrected(session: Session, project: Project) -> Listing:
    answers = newest_answers.newest(session, project.id, MOST_ANSWERS)
    corrected = [answer for answer in answers if answer.outcome in (Outcome.CORRECTED, Outcome.EMPTIED)]
    corrected.sort(key=lambda answer: -1.0 if answer.score is None else answer.score, reverse=True)
    rows = [(answer.task_id, _correction(answer)) for answer in corrected]
    return Listing(
        _paged(rows),
        f"{len(rows):,} of the newest {len(answers):,} annotations changed what the annotator was shown. Those of "
        "which the model was surest come first.",
        "Annotators have corrected no pre-annotation, as far as Label Studio has told.",
    )


def _correction(answer: Answer) -> tuple[str, ...]:
    submitted = "nothing: all of it was removed" if answer.outcome is Outcome.EMPTIED else _words(answer.annotated)
    if answer.predicted is not None and answer.predicted == answer.annotated:
        submitted = f"{submitted}, with other regions"
    return score(answer.score), _words(answer.predicted), submitted


def _contradicted(session: Session, project: Project) -> Listing:
    disputed = disagreements.among_newest(session, project.id, MOST_ANSWERS)
    rows = []
    for task in disputed:
        opinions = [
            f"{'annotator ' + str(opinion.annotator) if opinion.annotator else 'somebody'}: "
            f"{_words(named_labels(opinion.result))}"
            for opinion in task.opinions
        ]
        rows.append((task.task_id, (str(len(opinions)), "; ".join(opinions))))
    return Listing(
        _paged(rows),
        f"{len(rows):,} task{'' if len(rows) == 1 else 's'} with annotations that do not say the same, among the "
        f"tasks of the newest {MOST_ANSWERS:,} annotations.",
        "No task has two annotations that differ, among the newest. Label Studio asks several annotators for a "
        "task if the project's setting *Annotations per task* is more than 1.",
    )


def _wrong(session: Session, project: Project) -> Listing:
    report = label_error_reports.get(session, project.id)
    if report is None:
        empty = (
            f"Nobody has looked for label errors yet: `lorabel label-errors {project.id}`, or the button above."
        )
        return Listing(Page([], 1, False, "page"), empty=empty)
    rows = [
        (error["task_id"], (error["from_name"], error["given"] or "–", error["suggested"] or "–", _reason(error)))
        for error in report.errors
    ]
    return Listing(_paged(rows), _found(report), "No annotation looks wrong.")


def _found(report: LabelErrorReport) -> str:
    note = (
        f"{report.found:,} of {report.checked:,} annotations are probably wrong, as found on "
        f"{report.found_at:%Y-%m-%d %H:%M} UTC. The worst come first."
    )
    return " ".join([note, *(f"Not checked: {reason}." for reason in report.left_out)])


def _reason(error: Mapping[str, object]) -> str:
    """Why an annotation is probably wrong, see `lorabel.curation.label_errors.LabelError`."""
    likely = f"a model of the other annotations gives it {percent(float(str(error['score'])), 1)}"
    if not error["given"]:
        return f"tasks like this one have the label {error['suggested']}, which is missing: {likely}"
    if not error["suggested"]:
        return f"tasks like this one do not have the label {error['given']}: {likely}"
    return f"tasks like this one are {error['suggested']}, not {error['given']}: {likely}"


READERS: Mapping[Show, Callable[[Session, Project], Listing]] = {
    Show.MODEL: _corrected,
    Show.ANNOTATORS: _contradicted,
    Show.ERRORS: _wrong,
}


def _paged(rows: Sequence[tuple[int, Sequence[str]]]) -> Page[tuple[int, Sequence[str]]]:
    return read_page("page", lambda offset, limit: rows[offset : offset + limit])


def _words(labels: Mapping[str, Set[str]] | None) -> str:
    """The labels of a result; the names of the control tags only if there are several."""
    if labels is None:
        return "not known"
    if not labels:
        return "no label"
    names = {tag: ", ".join(sorted(of_tag)) for tag, of_tag in labels.items()}
    if len(names) == 1:
        return next(iter(names.values()))
    return "; ".join(f"{tag}: {text}" for tag, text in names.items())
