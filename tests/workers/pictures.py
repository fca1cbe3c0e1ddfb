"""Drawn pictures as tasks, with labels whose names tell the demo model nothing."""

import base64
import io
from itertools import islice
from typing import Any

from lorabel.demo.pictures import Picture, random_pictures

GRADES = {"solid": "Grade A", "striped": "Grade B", "outlined": "Grade C"}
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="grade" toName="image">'
    + "".join(f'<Choice value="{grade}"/>' for grade in GRADES.values())
    + "</Choices></View>"
)


def pictures(count: int, seed: int = 5) -> list[Picture]:
    return list(islice(random_pictures(seed), count))


def data_url(picture: Picture) -> str:
    file = io.BytesIO()
    picture.draw(96).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def result(grade: str) -> list[dict[str, Any]]:
    return [{"from_name": "grade", "to_name": "image", "type": "choices", "value": {"choices": [grade]}}]
