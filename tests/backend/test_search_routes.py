"""The REST route of search; tests/lorabel/search/test_searcher.py tests the search itself."""

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from tests.lorabel.fake_label_studio import FakeLabelStudio

SEARCH = "/api/v1/projects/1/search"


def test_tasks_are_found_by_text_and_by_task_with_links(
    client: FlaskClient, label_studio: FakeLabelStudio
) -> None:
    answer = client.get(SEARCH, query_string={"q": "a red star", "limit": 2}).json
    assert [hit["task_id"] for hit in answer["hits"]] == [2, 1]
    assert answer["hits"][0] == {
        "task_id": 2,
        "similarity": pytest.approx(1.0, abs=1e-3),
        "url": f"{label_studio.url}/projects/1/data?task=2",
    }
    assert (answer["indexed"], answer["missing"]) == (3, 0)
    similar = client.get(SEARCH, query_string={"task": 3}).json
    assert [hit["task_id"] for hit in similar["hits"]] == [2, 1]


@pytest.mark.usefixtures("label_studio")
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"q": " "},
        {"q": "a", "task": 1},
        {"task": "one"},
        {"q": "a", "limit": -1},
        {"q": "a", "limit": 1001},
        {"q": "a" * 10_001},
    ],
)
def test_a_malformed_query_is_refused(client: FlaskClient, query: dict[str, str]) -> None:
    answer = client.get(SEARCH, query_string=query)
    assert (answer.status_code, list(answer.json)) == (400, ["error"])


@pytest.mark.usefixtures("label_studio")
def test_a_search_is_answered_with_503_if_all_threads_for_predictions_are_taken(
    client: FlaskClient, services: Services
) -> None:
    while services.prediction_slots.acquire(blocking=False):
        """Every thread for predictions is taken."""
    answer = client.get(SEARCH, query_string={"q": "red"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_an_unknown_project_or_task_is_404(client: FlaskClient, label_studio: FakeLabelStudio) -> None:
    assert client.get("/api/v1/projects/9/search?q=red").status_code == 404
    assert client.get(f"{SEARCH}?task=77").status_code == 404
