"""Small versions of the requests that Label Studio 1.23.2 sends; tests/data/recordings has the real ones."""

from typing import Any

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="red"/><Choice value="blue"/></Choices></View>'
)
TWO_TAGS = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>'
    '<Choices name="size" toName="image"><Choice value="big"/><Choice value="small"/></Choices></View>'
)
TWO_PICTURES = (
    '<View><Image name="left" value="$left"/><Image name="right" value="$right"/>'
    '<Choices name="l" toName="left"><Choice value="red"/><Choice value="blue"/></Choices>'
    '<Choices name="r" toName="right"><Choice value="red"/><Choice value="blue"/></Choices></View>'
)
UNSERVED = '<View><Text name="t" value="$text"/><DateTime name="stars" toName="t"/></View>'
PROJECT = "1.1795324321"


def setup(**changes: Any) -> dict[str, Any]:
    body = {
        "project": PROJECT,
        "schema": CONFIG,
        "hostname": "http://localhost:8080",
        "access_token": "legacy",
        "extra_params": None,
    }
    return body | changes


def task(task_id: int, image: str = "http://pictures.test/red.png", **data: Any) -> dict[str, Any]:
    return {"id": task_id, "data": {"image": image} | data, "project": 1, "annotations": [], "predictions": []}


def predict(*tasks: dict[str, Any], label_config: str = CONFIG, context: Any = None) -> dict[str, Any]:
    params = {"login": None, "password": None, "context": context}
    return {"tasks": list(tasks), "project": PROJECT, "label_config": label_config, "params": params}


def annotation(annotation_id: int, task_id: int = 1) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}
    updated_at = "2026-11-22T05:12:14.125896Z"
    return {
        "id": annotation_id,
        "task": task_id,
        "result": [region],
        "was_cancelled": False,
        "updated_at": updated_at,
    }


def event(action: str, **parts: Any) -> dict[str, Any]:
    return {"action": action, "project": {"id": 1, "label_config": CONFIG, "title": "p"}} | parts
