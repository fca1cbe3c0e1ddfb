"""The predicted boxes and masks of a task on its page: drawn over the picture, with the nearest labels of each."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from backend.services import Services
from lorabel.database.tables import Project
from lorabel.errors import UnreadableError
from lorabel.explanations.explanation import TagExplanation
from lorabel.explanations.label_nearness import ExplainedRegion, NearLabel

PICTURE_PX = 640
# So many labels of a region are shown.
SHOWN_LABELS = 5
# The ends of a bar. Odds of 400 to 1, and beyond, are one length.
LONGEST_NEARNESS = 6.0


@dataclass(frozen=True)
class ShownPicture:
    """A picture of the task as the page shows it.

    Attributes:
        number: among the task's pictures; None if it cannot be shown.
        width: in pixels, as it is shown.
        height: likewise.
        fault: why it cannot be shown; None if it can.
    """

    number: int | None
    width: int
    height: int
    fault: str | None


@dataclass(frozen=True)
class RegionView:
    """A region of the picture, in its pixels, with its nearest labels.

    Attributes:
        number: from 1, which stands beside it in the picture.
        labels: with the length of the bar, in [0, 1].
        is_headed: whether a fitted head answers, so that the labels' texts alone would say something else.
    """

    number: int
    region: ExplainedRegion
    x: float
    y: float
    width: float
    height: float
    labels: Sequence[tuple[NearLabel, float]]
    is_headed: bool


@dataclass(frozen=True)
class RegionsView:
    """The regions of a control tag."""

    picture: ShownPicture
    regions: Sequence[RegionView]


def shown_picture(services: Services, project: Project, urls: Sequence[str], url: str | None) -> ShownPicture:
    """Return how the page shows a picture.

    Args:
        urls: of the task's pictures.
        url: of the one that is shown.
    """
    try:
        if url is None or url not in urls:
            raise UnreadableError("the picture is not in the task any more", is_permanent=False)
        with Image.open(io.BytesIO(services.thumbnails.get(project, url, PICTURE_PX))) as picture:
            return ShownPicture(urls.index(url), *picture.size, None)
    except UnreadableError as error:
        return ShownPicture(None, PICTURE_PX, PICTURE_PX, str(error))


def regions_view(
    services: Services, project: Project, urls: Sequence[str], tag: TagExplanation
) -> RegionsView | None:
    """Return the regions of a control tag as the page shows them; None if it has none.

    Args:
        urls: of the task's pictures.
    """
    if not tag.regions:
        return None
    picture = shown_picture(services, project, urls, tag.picture_url)
    views = [_view(number, region, picture) for number, region in enumerate(tag.regions, 1)]
    return RegionsView(picture, views)


def _view(number: int, region: ExplainedRegion, picture: ShownPicture) -> RegionView:
    left, top, right, bottom = region.corners
    return RegionView(
        number,
        region,
        left * picture.width,
        top * picture.height,
        (right - left) * picture.width,
        (bottom - top) * picture.height,
        [(near, _bar(near.nearness)) for near in region.labels[:SHOWN_LABELS]],
        any(near.of_text is not None for near in region.labels),
    )


def _bar(nearness: float) -> float:
    limited = min(max(nearness, -LONGEST_NEARNESS), LONGEST_NEARNESS)
    return round((limited + LONGEST_NEARNESS) / (2 * LONGEST_NEARNESS), 3)
