"""What the problems share that find something in one picture: boxes, lines of text, masks."""

from lorabel.contracts import Content
from lorabel.errors import UnreadableError, UnservedError
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.task_content import contents
from lorabel.media.fetching import digest
from lorabel.problems.base import TaskData
from lorabel.space_contracts import Corners

ID_CHARACTERS = 10


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
    return digest(repr((number, *(round(part, 4) for part in corners))).encode())[:ID_CHARACTERS]
