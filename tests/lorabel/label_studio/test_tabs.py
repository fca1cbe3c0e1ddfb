"""Tabs of reviews, and those that people have made or changed themselves."""

from typing import Any, cast

import pytest

from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.tabs import close_tab, open_tab

NAME = "p1.v3 (review 8)"


class FakeTabs:
    """Fakes the tabs of Label Studio's API."""

    def __init__(self, *tabs: dict[str, Any]) -> None:
        self.tabs = {tab["id"]: tab for tab in tabs}

    def call(self, method: str, path: str, **request: Any) -> Any:
        if method == "POST":
            self.tabs[99] = {"id": 99, **request["json"]}
            return self.tabs[99]
        if path == "/api/dm/views/":
            return list(self.tabs.values())
        tab_id = int(path.split("/")[4])
        return self.tabs.pop(tab_id) if method == "DELETE" else self.tabs[tab_id]


def client(tabs: FakeTabs) -> LabelStudio:
    return cast(LabelStudio, tabs)


def test_only_a_tab_with_the_filter_of_the_review_is_taken_and_deleted() -> None:
    of_person = {"id": 1, "data": {"title": "Review 8", "filters": {"conjunction": "and", "items": []}}}
    tabs = FakeTabs({"id": 2, "data": None}, of_person)
    assert open_tab(client(tabs), 5, "Review 8", NAME) == 99
    assert open_tab(client(tabs), 5, "Review 8", NAME) == 99, "the answer to the first request was lost"
    close_tab(client(tabs), 99, NAME)
    assert tabs.tabs.keys() == {1, 2}


@pytest.mark.parametrize("data", [None, {}, {"title": "Review 8", "filters": None}])
def test_a_tab_that_somebody_has_given_another_filter_is_not_deleted(data: Any) -> None:
    tabs = FakeTabs({"id": 7, "data": data})
    close_tab(client(tabs), 7, NAME)
    assert tabs.tabs.keys() == {7}
