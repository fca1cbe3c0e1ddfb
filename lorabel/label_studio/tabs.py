"""Tabs of Label Studio's Data Manager, through its API. Seen with version 1.23.2."""

import httpx

from lorabel.database.project_keys import LabelStudioId
from lorabel.errors import LabelStudioRefusedError
from lorabel.label_studio.client import LabelStudio


def open_tab(client: LabelStudio, project_id: LabelStudioId, title: str, model_version: str) -> int:
    """Add a tab with the tasks that have a prediction of a version, and return its id.

    A tab with this title is taken as it is: the answer to an earlier request may have been lost.
    """
    for tab in client.call("GET", "/api/dm/views/", params={"project": project_id}):
        if tab.get("data", {}).get("title") == title:
            return int(tab["id"])
    has_version = {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": "contains",
        "type": "List",
        "value": [model_version],
    }
    data = {"title": title, "type": "list", "filters": {"conjunction": "and", "items": [has_version]}}
    return int(client.call("POST", "/api/dm/views/", json={"project": project_id, "data": data})["id"])


def close_tab(client: LabelStudio, tab_id: int) -> None:
    """Delete a tab. It is no error if there is no such tab any more."""
    try:
        client.call("DELETE", f"/api/dm/views/{tab_id}/")
    except LabelStudioRefusedError as error:
        if error.status_code != httpx.codes.NOT_FOUND:
            raise
