"""The page of two versions side by side: the tasks that changed, and what each version said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flask import request
from sqlalchemy.orm import Session

from backend.pages.drawings import Drawing, draw
from backend.pages.paging import Page, read_page
from backend.pages.project import label_studio_url
from backend.pages.task_previews import Preview, labels_of, picture_tag
from backend.services import Services
from lorabel.database import newest_answers, task_outcomes, version_comparisons, versions
from lorabel.database import projects as project_rows
from lorabel.database.tables import Project, version_name
from lorabel.database.version_comparisons import ChangedTask, TagComparison, VersionComparison
from lorabel.errors import BadRequestError
from lorabel.label_studio.access import task_link

# Annotations that are longer, in characters of JSON, are not drawn: to read the masks in them takes long.
LONGEST_DRAWN = 60_000


class Change(StrEnum):
    """Which tasks are listed."""

    WORSE = "worse"
    BETTER = "better"


@dataclass(frozen=True)
class ChangedRow:
    """A task that changed, with what its annotators and both versions say; None where that is not kept."""

    task: ChangedTask
    link: str | None
    preview: Preview
    annotated: Drawing | None
    first: Drawing | None
    second: Drawing | None

    @property
    def sides(self) -> Sequence[Drawing | None]:
        """As they are shown, from left to right."""
        return (self.annotated, self.first, self.second)


@dataclass(frozen=True)
class ComparisonPage:
    """What the page shows.

    Attributes:
        first, second: names of the versions; `second` is the one that the page was opened for.
        others: names of the versions that it can be compared with.
        tag: whose tasks are listed; None if no task was judged for both.
    """

    project: Project
    title: str | None
    first: str
    second: str
    others: Sequence[str]
    comparison: VersionComparison
    tag: TagComparison | None
    show: Change
    rows: Page[ChangedRow]


def read_comparison(services: Services, project_id: int, name: str) -> ComparisonPage:
    """Read what the page shows. The URL's `with` names the other version, else it is the parent.

    Raises:
        NotFoundError: no such project or version.
        BadRequestError: a field of the URL is none that is known.
    """
    show = request.args.get("show", Change.WORSE)
    if show not in list(Change):
        raise BadRequestError(f"show={show[:20]!r} is none of {', '.join(Change)}")
    with services.store.read() as session:
        project = project_rows.get(session, project_id)
        first, second = read_numbers(session, project_id, name)
        comparison = version_comparisons.compare(session, project_id, first, second)
        others = [
            number for number in (*task_outcomes.measured_numbers(session, project_id), 0) if number != second
        ]
        tag = _tag(comparison)
        listed: Sequence[ChangedTask] = () if tag is None else tag.better if show == Change.BETTER else tag.worse
        page = read_page("page", lambda offset, limit: listed[offset : offset + limit])
        drawings = {} if tag is None else _drawings(session, project, comparison, tag.control_tag, page.rows)
    rows = _rows(services, project, page.rows, drawings)
    return ComparisonPage(
        project,
        services.vitals.title(project_id),
        version_name(project_id, first),
        version_name(project_id, second),
        [version_name(project_id, number) for number in dict.fromkeys([*others, first])],
        comparison,
        tag,
        Change(show),
        Page(rows, page.number, page.has_more, page.name),
    )


def read_numbers(session: Session, project_id: int, name: str) -> tuple[int, int]:
    """The numbers of the version that the URL's `with` names, else of the parent, and of the version `name`.

    Raises:
        NotFoundError: no such version.
        BadRequestError: both are the same, or the base models have no parent.
    """
    second = versions.parse_number(project_id, name)
    parent = versions.get(session, project_id, second).parent if second else None
    asked = request.args.get("with")
    if asked is None and parent is None:
        raise BadRequestError(
            f"{version_name(project_id, 0)} has no parent; say `with` which version to compare it"
        )
    first = versions.parse_number(project_id, asked) if asked is not None else parent or 0
    if first:
        versions.get(session, project_id, first)
    if first == second:
        raise BadRequestError(
            f"{version_name(project_id, first)} was to be compared with itself; name another version"
        )
    return first, second


def _tag(comparison: VersionComparison) -> TagComparison | None:
    """The control tag that the URL's `tag` names, else the first."""
    asked = request.args.get("tag")
    chosen = [tag for tag in comparison.tags if asked in (None, tag.control_tag)]
    if asked is not None and not chosen:
        raise BadRequestError(f"no task of {asked[:40]!r} was judged for both versions")
    return chosen[0] if chosen else None


def _drawings(
    session: Session, project: Project, comparison: VersionComparison, tag: str, tasks: Sequence[ChangedTask]
) -> Mapping[int, Sequence[Drawing | None]]:
    """Task id -> what is annotated, and what the first and the second version have answered."""
    assert comparison.sides is not None
    ids = [task.task_id for task in tasks]
    sources: list[Mapping[int, Sequence[object] | None]] = [
        newest_answers.results_of(session, project.id, ids, LONGEST_DRAWN),
        *(task_outcomes.results(session, project.id, side, tag, ids) for side in comparison.sides),
    ]
    shown, labels = picture_tag(project), labels_of(project, tag)
    return {
        task_id: [
            None if (result := source.get(task_id)) is None else draw(result, tag, shown, labels)
            for source in sources
        ]
        for task_id in ids
    }


def _rows(
    services: Services,
    project: Project,
    tasks: Sequence[ChangedTask],
    drawings: Mapping[int, Sequence[Drawing | None]],
) -> list[ChangedRow]:
    previews = services.previews.read(project, [task.task_id for task in tasks])
    url = label_studio_url(services, project)
    return [
        ChangedRow(
            task,
            None if url is None else task_link(project, url, task.task_id),
            previews.get(task.task_id, Preview()),
            *drawings[task.task_id],
        )
        for task in tasks
    ]
