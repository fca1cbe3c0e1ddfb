"""The page of a cell of the confusion matrix: its tasks with small pictures; each opens in Label Studio."""

from dataclasses import dataclass

from flask import request

from backend.pages.paging import Page, read_page
from backend.pages.project import MOST_ANSWERS, label_studio_url
from backend.pages.task_previews import Preview
from backend.services import Services
from lorabel.database import newest_answers
from lorabel.database import projects as project_rows
from lorabel.database.tables import Project
from lorabel.errors import BadRequestError
from lorabel.evaluation.agreement import confusion
from lorabel.label_studio.access import task_link


@dataclass(frozen=True)
class CellTask:
    """A task of the cell. `link`: to it in Label Studio."""

    task_id: int
    link: str | None
    preview: Preview


@dataclass(frozen=True)
class CellPage:
    """The tasks of a cell of the confusion matrix. `count`: of all pages."""

    project: Project
    title: str | None
    tag: str
    annotated: str
    predicted: str
    tasks: Page[CellTask]
    count: int
    looked_at: int


def read_cell(services: Services, project_id: int) -> CellPage:
    """Read the tasks that the URL's `tag`, `annotated` and `predicted` name.

    Raises:
        NotFoundError: no such project.
        BadRequestError: one of the three is missing, or `page` is no number.
    """
    names = [request.args.get(name) for name in ("tag", "annotated", "predicted")]
    if not all(names):
        raise BadRequestError("expected ?tag=...&annotated=...&predicted=...")
    tag, annotated, predicted = (str(name) for name in names)
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        answers = newest_answers.newest(session, project_id, MOST_ANSWERS)
    shown = [case for answer in answers if (case := answer.shown) is not None]
    # Every label, so that a cell is found whose label has no row now.
    task_ids = confusion(shown, tag, len(shown)).task_ids.get((annotated, predicted), ())
    url = label_studio_url(services, project)
    page = read_page("page", lambda offset, limit: task_ids[offset : offset + limit])
    previews = services.previews.read(project, page.rows)
    tasks = [
        CellTask(task_id, url and task_link(project, url, task_id), previews.get(task_id, Preview()))
        for task_id in page.rows
    ]
    return CellPage(
        project,
        services.vitals.title(project_id),
        tag,
        annotated,
        predicted,
        Page(tasks, page.number, page.has_more, page.name),
        len(task_ids),
        len(answers),
    )
