"""The demo's project: printed shapes are graded by their fill, a rule that no model can know before it is trained.

Solid is `Grade A`, striped `Grade B`, outlined `Grade C`. Colour, shape, size, position and ground do not matter.
"""

import io
from collections.abc import Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from lorabel.database.project_keys import LabelStudioId
from lorabel.demo.pictures import Picture, random_pictures
from lorabel.label_studio.client import LabelStudio

TITLE = "Lorabel demo: grade the prints"
SIDE_PX = 256
SEED = 77
FILES_PER_REQUEST = 40
"""Label Studio takes at most 100 files in one request."""

GRADES = MappingProxyType({"solid": "Grade A", "striped": "Grade B", "outlined": "Grade C"})
LABEL_CONFIG = """<View>
  <Header value="How good is this print?"/>
  <Image name="image" value="$image" maxWidth="440px"/>
  <Choices name="grade" toName="image" choice="single" showInline="true">
    <Choice value="Grade A"/>
    <Choice value="Grade B"/>
    <Choice value="Grade C"/>
  </Choices>
</View>"""


def pictures(count: int) -> list[Picture]:
    """The project's first `count` pictures, always the same and in the same order."""
    return list(islice(random_pictures(SEED), count))


def right_answer(picture: Picture) -> str:
    """The choice that the rule of the project gives a picture."""
    return GRADES[picture.fill]


def picture_of(task_data: dict[str, Any], count: int) -> Picture:
    """The picture of a task, found by the name of the uploaded file, which Label Studio keeps.

    Args:
        task_data: for example `{"image": "/data/upload/2/b3d4456e-print-017.jpg"}`.
        count: number of pictures in the project.
    """
    number = int(task_data["image"].rsplit("-", 1)[1].removesuffix(".jpg"))
    return pictures(count)[number]


def create_project(label_studio: LabelStudio, count: int) -> LabelStudioId:
    """Create a project and upload `count` pictures, in the order of `pictures`.

    Returns:
        The project's id in Label Studio.
    """
    files = [
        (f"print-{index:03d}.jpg", _jpeg(picture), "image/jpeg") for index, picture in enumerate(pictures(count))
    ]
    return upload_project(label_studio, TITLE, LABEL_CONFIG, files)


def upload_project(
    label_studio: LabelStudio, title: str, label_config: str, files: Sequence[tuple[str, bytes, str]]
) -> LabelStudioId:
    """Create a project whose tasks are files in this order; see `create_project`.

    Args:
        files: the name, the bytes and the MIME type of each.
    """
    project_id = LabelStudioId(
        label_studio.call(
            "POST",
            "/api/projects/",
            json={"title": title, "label_config": label_config, "show_collab_predictions": True},
        )["id"]
    )
    for start in range(0, len(files), FILES_PER_REQUEST):
        part = {f"file{index}": file for index, file in enumerate(files[start : start + FILES_PER_REQUEST])}
        label_studio.call("POST", f"/api/projects/{project_id}/import", files=part, timeout_s=120.0)
    return project_id


def _jpeg(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.draw(SIDE_PX).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
