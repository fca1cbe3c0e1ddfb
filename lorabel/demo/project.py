"""The demo's project: printed shapes to be graded by how they are filled, which no model can know before.

`Grade A` is solid, `Grade B` striped, `Grade C` outlined. Colour, shape, size, place and ground say nothing.
"""

import io
from itertools import islice
from types import MappingProxyType
from typing import Any

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
    """Always the same ones, in the same order."""
    return list(islice(random_pictures(SEED), count))


def right_answer(picture: Picture) -> str:
    return GRADES[picture.fill]


def picture_of(task_data: dict[str, Any], count: int) -> Picture:
    """The picture that a task shows: Label Studio keeps the name of the uploaded file."""
    number = int(task_data["image"].rsplit("-", 1)[1].removesuffix(".jpg"))
    return pictures(count)[number]


def create_project(label_studio: LabelStudio, count: int) -> int:
    """A new project with `count` uploaded pictures, in the order of `pictures`. Returns its id."""
    project_id = int(
        label_studio.call(
            "POST",
            "/api/projects/",
            json={"title": TITLE, "label_config": LABEL_CONFIG, "show_collab_predictions": True},
        )["id"]
    )
    drawn = pictures(count)
    for start in range(0, count, FILES_PER_REQUEST):
        files = {
            f"file{i}": (f"print-{i:03d}.jpg", _jpeg(drawn[i]), "image/jpeg")
            for i in range(start, min(start + FILES_PER_REQUEST, count))
        }
        label_studio.call("POST", f"/api/projects/{project_id}/import", files=files, timeout_s=120.0)
    return project_id


def _jpeg(picture: Picture) -> bytes:
    written = io.BytesIO()
    picture.draw(SIDE_PX).save(written, "JPEG", quality=90)
    return written.getvalue()
