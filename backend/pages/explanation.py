"""The page of a task: why the model answers as it does.

What carried the answer is drawn over the picture and marked in the text; the nearest annotated tasks follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from flask import request

from backend.pages.explained_regions import PICTURE_PX, RegionsView, ShownPicture, regions_view, shown_picture
from backend.pages.project import label_studio_url, link_of
from backend.pages.task_previews import Preview, picture_urls
from backend.services import Services
from backend.task_explanations import NearTask, TaskExplanation, explain_task
from lorabel.database import projects
from lorabel.database.tables import Project
from lorabel.errors import NotFoundError
from lorabel.explanation_contracts import ContentWeights, Fit
from lorabel.explanations.explanation import ExplainedContent, TagExplanation
from lorabel.label_studio.access import task_link

# How strongly the most important place covers the picture, and below which share of it nothing is drawn.
MOST_OPAQUE, LEAST_SHARE = 0.62, 0.08
# Words have so many strengths, and so many of them are listed.
STRENGTHS = 4
LISTED_WORDS = 8
# More labels than these are not offered as links.
MOST_LABELS = 40


@dataclass(frozen=True)
class HeatCell:
    """A place of a picture, in its pixels. `kind`: `for` the answer or `against` it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    opacity: float


@dataclass(frozen=True)
class HeatMap:
    """A picture with what carried the answer. `strongest` says in words where the strongest place is."""

    picture: ShownPicture
    cells: Sequence[HeatCell]
    strongest: str


@dataclass(frozen=True)
class TextPiece:
    """A piece of a text. `kind`: `for`, `against`, or nothing if it says little; `strength`: from 1 to 4."""

    text: str
    kind: str = ""
    strength: int = 0
    weight: float = 0.0


@dataclass(frozen=True)
class ContentView:
    """A content of the task. `pieces` and `words` are of a text: all of it, and those that say most."""

    content: ExplainedContent
    heat: HeatMap | None
    pieces: Sequence[TextPiece]
    words: Sequence[TextPiece]


@dataclass(frozen=True)
class TagView:
    """A control tag. `labels`: those that the page offers to explain. `regions`: None if it predicts none."""

    tag: TagExplanation
    labels: Sequence[str]
    contents: Sequence[ContentView]
    regions: RegionsView | None


@dataclass(frozen=True)
class ExplanationPage:
    """What the page shows. `link`: to the task in Label Studio."""

    project: Project
    title: str | None
    task_id: int
    label_studio_link: str | None
    link: str | None
    version: str
    tags: Sequence[TagView]
    nearest: Sequence[tuple[NearTask, Preview]]
    nearest_reason: str | None


def read_page(services: Services, project_id: int, task_id: int) -> ExplanationPage:
    """Read what the page shows; `?label=` of the URL is the label that is explained.

    Raises:
        NotFoundError, LabelConfigError, ModelServerBusyError: see `explain_task`.
    """
    client = request.environ.get("gunicorn.socket")
    explained = explain_task(services, project_id, task_id, request.args.get("label"), client)
    project = explained.project
    url = label_studio_url(services, project)
    previews = services.previews.read(project, [near.task_id for near in explained.nearest])
    return ExplanationPage(
        project,
        services.vitals.title(project_id),
        task_id,
        link_of(services, project),
        None if url is None else task_link(project, url, task_id),
        explained.version,
        [_tag_view(services, explained, tag) for tag in explained.tags],
        [(near, previews.get(near.task_id, Preview())) for near in explained.nearest],
        explained.nearest_reason,
    )


def read_picture(services: Services, project_id: int, task_id: int, number: int) -> bytes:
    """The JPEG of a task's picture.

    Raises:
        NotFoundError: no such project, task or picture.
        UnreadableError: it cannot be fetched or decoded.
    """
    with services.store.read() as session:
        project = projects.get(session, project_id)
    data = services.previews.data(project, task_id)
    urls = [] if data is None else picture_urls(project, data)
    if number >= len(urls):
        raise NotFoundError(f"task {task_id} of project {project_id} has no picture {number}")
    return services.thumbnails.get(project, urls[number], PICTURE_PX)


def _tag_view(services: Services, explained: TaskExplanation, tag: TagExplanation) -> TagView:
    urls = picture_urls(explained.project, explained.data)
    contents = [
        ContentView(
            content,
            _heat_map(services, explained.project, urls, content) if content.weights.heat else None,
            *_marked(content.weights),
        )
        for content in tag.contents
    ]
    labels = tag.labels if len(tag.labels) <= MOST_LABELS else ()
    return TagView(tag, labels, contents, regions_view(services, explained.project, urls, tag))


def _heat_map(services: Services, project: Project, urls: Sequence[str], content: ExplainedContent) -> HeatMap:
    picture = shown_picture(services, project, urls, content.url)
    cells = _cells(content.weights, picture.width, picture.height)
    return HeatMap(picture, cells, _strongest(content.weights.heat))


def _cells(weights: ContentWeights, width: int, height: int) -> list[HeatCell]:
    left, top, right, bottom = (weights.fit or Fit.STRETCHED).seen(width, height)
    rows, columns = len(weights.heat), len(weights.heat[0])
    cell_width, cell_height = (right - left) / columns, (bottom - top) / rows
    largest = max(abs(weight) for row in weights.heat for weight in row) or 1.0
    return [
        HeatCell(
            left + column * cell_width,
            top + row * cell_height,
            cell_width,
            cell_height,
            "for" if weight > 0 else "against",
            round(MOST_OPAQUE * abs(weight) / largest, 3),
        )
        for row, of_row in enumerate(weights.heat)
        for column, weight in enumerate(of_row)
        if abs(weight) >= LEAST_SHARE * largest
    ]


def _strongest(heat: Sequence[Sequence[float]]) -> str:
    """Where the strongest place is, for who does not see the picture."""
    rows, columns = len(heat), len(heat[0])
    row, column = max(
        ((r, c) for r in range(rows) for c in range(columns)), key=lambda cell: heat[cell[0]][cell[1]]
    )
    vertical = ("top", "middle", "bottom")[min(2, 3 * row // rows)]
    horizontal = ("left", "middle", "right")[min(2, 3 * column // columns)]
    return "middle" if (vertical, horizontal) == ("middle", "middle") else f"{vertical} {horizontal}"


def _marked(weights: ContentWeights) -> tuple[list[TextPiece], list[TextPiece]]:
    """All of a text in pieces, and the words that say most."""
    text = weights.text or ""
    largest = max((abs(word.weight) for word in weights.words), default=0.0) or 1.0
    pieces, end = [], 0
    for word in weights.words:
        pieces.append(TextPiece(text[end : word.start]))
        share = abs(word.weight) / largest
        kind = "" if share < LEAST_SHARE else "for" if word.weight > 0 else "against"
        pieces.append(TextPiece(text[word.start : word.end], kind, ceil(STRENGTHS * share), word.weight))
        end = word.end
    pieces.append(TextPiece(text[end:]))
    words = sorted((piece for piece in pieces if piece.kind), key=lambda piece: -abs(piece.weight))
    return [piece for piece in pieces if piece.text], words[:LISTED_WORDS]
