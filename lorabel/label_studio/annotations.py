"""Annotations that are written for a user, and taken back, through Label Studio's API. Seen with version 1.23.2.

Whoever may annotate a task may name any user of the server as `completed_by`; `updated_by` is always the user
whose token it is. No token of the named user is needed.
"""

from typing import Any

import httpx

from lorabel.errors import LabelStudioRefusedError
from lorabel.label_studio.client import LabelStudio


def own_id(client: LabelStudio) -> int:
    """Id of the user whose token it is."""
    return int(client.call("GET", "/api/current-user/whoami")["id"])


def find_user(client: LabelStudio, email: str) -> int | None:
    """Id of the user with this e-mail address; None if the token's organization has no such user."""
    users = client.call("GET", "/api/users/")
    return next((int(user["id"]) for user in users if str(user["email"]).lower() == email.lower()), None)


def add_annotation(client: LabelStudio, task_id: int, result: list[dict[str, Any]], user_id: int) -> int:
    """Add an annotation of a user to a task, and return its id."""
    body = {"result": result, "completed_by": user_id}
    return int(client.call("POST", f"/api/tasks/{task_id}/annotations/", json=body)["id"])


def delete_annotation(client: LabelStudio, annotation_id: int) -> None:
    """Delete an annotation. It is no error if there is no such annotation any more."""
    try:
        client.call("DELETE", f"/api/annotations/{annotation_id}/")
    except LabelStudioRefusedError as error:
        if error.status_code != httpx.codes.NOT_FOUND:
            raise
