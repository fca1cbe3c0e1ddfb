"""Drawn pictures as tasks and as annotations, with labels (grades) whose meaning the demo model has to learn."""

from datetime import datetime
from itertools import count, islice
from typing import Any

import httpx

from lorabel.demo.pictures import Picture, random_pictures
from tests.workers.events import annotation
from tests.workers.pictures import GRADES, LABEL_CONFIG, data_url, result

PROJECT = 1
SEED = 9


class Annotator:
    """Sends one annotation after another to the webhook, each of another task."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._pictures, self._numbers = random_pictures(SEED), count(1)

    def submit(self, annotations: int) -> None:
        for picture in islice(self._pictures, annotations):
            self._client.post("/webhook", json=event(next(self._numbers), picture)).raise_for_status()


def event(number: int, picture: Picture) -> dict[str, Any]:
    """The event that Label Studio sends when annotation `number` of task `number` was submitted."""
    body = annotation(number, number, "", number)
    body["annotation"]["result"] = result(GRADES[picture.fill])
    body["task"]["data"] = {"image": data_url(picture)}
    body["project"]["label_config"] = LABEL_CONFIG
    return body


def project_key() -> str:
    """The project of the events as /predict and /setup name it: its id, and the second in which it was created."""
    created_at = datetime.fromisoformat(annotation(1, 1, "", 1)["project"]["created_at"])
    return f"{PROJECT}.{int(created_at.timestamp())}"
