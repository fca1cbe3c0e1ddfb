"""Tabs of Label Studio's Data Manager, through its API. Seen with version 1.23.2."""

from typing import Any

import httpx

from lorabel.database.project_keys import LabelStudioId
from lorabel.errors import LabelStudioRefusedError
from lorabel.label_studio.client import LabelStudio

COLUMN = "filter:tasks:predictions_model_versions"


def open_tab(client: LabelStudio, project_id: LabelStudioId, title: str, model_version: str) -> int:
    """Add a tab with the tasks that have a prediction of a version, and return its id.

    A tab with this title and filter is taken as it is: the answer to an earlier request may have been lost.
    """
    for tab in client.call("GET", "/api/dm/views/", params={"project": project_id}):
        if _data(tab).get("title") == title and _is_of(tab, model_version):
            return int(tab["id"])
    has_version = {"filter": COLUMN, "operator": "contains", "type": "List", "value": [model_version]}
    data = {"title": title, "type": "list", "filters": {"conjunction": "and", "items": [has_version]}}
    return int(client.call("POST", "/api/dm/views/", json={"project": project_id, "data": data})["id"])


def close_tab(client: LabelStudio, tab_id: int, model_version: str) -> None:
    """Delete a tab. One that is gone, or that somebody has given another filter, is left alone."""
    try:
        if _is_of(client.call("GET", f"/api/dm/views/{tab_id}/"), model_version):
            client.call("DELETE", f"/api/dm/views/{tab_id}/")
    except LabelStudioRefusedError as error:
        if error.status_code != httpx.codes.NOT_FOUND:
            raise


def _is_of(tab: dict[str, Any], model_version: str) -> bool:
    """Whether a tab lists the tasks that have a prediction of a version, and no others."""
    items = (_data(tab).get("filters") or {}).get("items") or []
    return [(item.get("filter"), item.get("value")) for item in items] == [(COLUMN, [model_version])]


def _data(tab: dict[str, Any]) -> dict[str, Any]:
    return tab.get("data") or {}
