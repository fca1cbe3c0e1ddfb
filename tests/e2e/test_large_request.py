"""A request of many megabytes of pictures under two control tags, through the running backend and model server."""

import base64
import io

import httpx
import numpy as np
import pytest

from lorabel.demo.pictures import COLOURS, SHAPES, Picture
from lorabel.inference.requests import BYTES_PER_REQUEST
from tests.e2e.lorabel_processes import Lorabel
from tests.workers.pictures import pictures

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/>'
    + "".join(
        f'<Choices name="{name}" toName="image">'
        + "".join(f'<Choice value="{label}"/>' for label in labels)
        + "</Choices>"
        for name, labels in (("colour", COLOURS), ("shape", SHAPES))
    )
    + "</View>"
)
TASKS = 24
PICTURE_BYTES = 700_000


def large_data_url(picture: Picture, seed: int) -> str:
    """A small picture in a large file."""
    file = io.BytesIO()
    picture.draw(96).save(file, "PNG")
    padding = np.random.default_rng(seed).bytes(PICTURE_BYTES)
    return "data:image/png;base64," + base64.b64encode(file.getvalue() + padding).decode()


def test_pictures_of_many_megabytes_under_two_control_tags_are_all_answered(lorabel_up: Lorabel) -> None:
    """The model server gets them in several requests, each picture once."""
    drawn = pictures(TASKS)
    tasks = [
        {"id": number, "data": {"image": large_data_url(picture, number)}} for number, picture in enumerate(drawn)
    ]
    body = {"tasks": tasks, "project": "7171.1", "label_config": CONFIG, "params": {}}
    request = httpx.Request("POST", f"{lorabel_up.url}/predict", json=body)
    assert len(request.content) > BYTES_PER_REQUEST
    with httpx.Client(trust_env=False, timeout=110.0) as client:
        answer = client.send(request)
    assert answer.status_code == 200, answer.text
    answers = [
        {region["from_name"]: region["value"]["choices"] for region in entry["result"]}
        for entry in answer.json()["results"]
    ]
    assert all(answer.keys() == {"colour", "shape"} for answer in answers)
    right = [answer["colour"] == [picture.colour] for answer, picture in zip(answers, drawn, strict=True)]
    assert sum(right) >= 0.8 * TASKS
