"""Drawn pictures as tasks and as annotations, for what learns: the demo model, and grades that it cannot know."""

from itertools import count, islice
from typing import Any

import httpx

from lorabel.demo.pictures import Picture, random_pictures
from tests.workers.events import annotation
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, result

PROJECT = 1
SEED = 9


class Annotator:
    """Submits one annotation after another over the webhook, each of a task of its own."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._pictures, self._numbers = random_pictures(SEED), count(1)

    def submit(self, annotations: int) -> None:
        for picture in islice(self._pictures, annotations):
            self._client.post("/webhook", json=event(next(self._numbers), picture)).raise_for_status()


def event(number: int, picture: Picture) -> dict[str, Any]:
    """As Label Studio sends it when annotation `number` of task `number` was submitted."""
    body = annotation(number, number, "", number)
    body["annotation"]["result"] = result(GRADES[picture.fill])
    body["task"]["data"] = {"image": data_url(picture)}
    body["project"]["label_config"] = LABEL_CONFIG
    return body
