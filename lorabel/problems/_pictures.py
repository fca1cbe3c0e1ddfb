"""What the problems share that find something in one picture: boxes, lines of text, masks."""

from collections.abc import Sequence
from typing import Any

from lorabel.contracts import Content
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.labeling.image_regions import corners_of
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.regions import Region
from lorabel.labeling.task_content import contents
from lorabel.media.fetching import digest
from lorabel.problems._answers import shown
from lorabel.problems.base import TaskData
from lorabel.space_contracts import Corners

ID_CHARACTERS = 10
ID_DECIMALS = 4
# What says where a span is.
SPAN_KEYS = ("start", "startOffset", "end", "endOffset")


def refuse_several_pictures(tag: ObjectTag) -> None:
    """Check that the object tag shows one picture.

    Raises:
        UnservedError: it shows a list of pictures.
    """
    if "valueList" in tag.attributes:
        raise UnservedError(f"valueList: {tag.name!r} shows several pictures, expected one")


def picture_of(tag: ObjectTag, data: TaskData) -> tuple[Content]:
    """Return the picture of a task, which is all that the model reads.

    Raises:
        UnreadableError: the task has no picture, or several.
    """
    pictures = contents(tag, data)
    if len(pictures) != 1:
        raise UnreadableError(
            f"the task has {len(pictures)} pictures under {tag.data_key!r}, expected one", is_permanent=True
        )
    return (pictures[0],)


def group_id(corners: Corners, number: int) -> str:
    """Return the id of the regions of a group: the same whenever it is predicted anew, else another one.

    In the editor, a suggestion of a smart tool that is accepted replaces a region with the same id. So an id must
    not be a number that begins anew in each answer.

    Args:
        corners: the place of the group.
        number: what else tells it from others of the same answer.
    """
    return _short_digest((number, *(round(part, ID_DECIMALS) for part in corners)))


def _short_digest(parts: tuple[object, ...]) -> str:
    return digest(repr(parts).encode())[:ID_CHARACTERS]


def identified(regions: Sequence[Region]) -> list[Region]:
    """Return predicted regions of which each has an id that has a place or is a span; see `group_id`."""
    return [region if "id" in region else _with_id(region, number) for number, region in enumerate(regions)]


def _with_id(region: Region, number: int) -> Region:
    value = region.get("value")
    place: tuple[object, ...] = ()
    try:
        place = tuple(round(part, ID_DECIMALS) for part in corners_of(region))
    except MissingTargetError:
        if isinstance(value, dict) and "start" in value:
            place = tuple(repr(value.get(key)) for key in SPAN_KEYS)
    # The tag counts, too: two tags may be given the same place, and answers about regions are told apart by ids.
    return {"id": _short_digest((number, region["from_name"], *place)), **region} if place else region


def group_of(region: Region) -> Any:
    """Return what the regions of one thing share: their id; their place where there is no id.

    Raises:
        MissingTargetError: the id is no text.
    """
    id_ = region.get("id")
    if isinstance(id_, str):
        return id_
    if id_ is not None:
        raise MissingTargetError(f"a region has the id {shown(id_)}, expected a text")
    try:
        return corners_of(region)
    except MissingTargetError:
        return None
