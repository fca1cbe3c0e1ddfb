"""Search with a fake Label Studio, which has the tasks, and a fake model server, which embeds them."""

from collections.abc import Iterator

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.errors import ConflictError, ModelServerError, NotFoundError
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.search.searcher import Searcher, SearchResult
from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.fake_model_server import FakeModelServer
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve
from tests.workers.conftest import add_tasks

pytestmark = [pytest.mark.slow, pytest.mark.servers]

NAMES = ["blue-star", "red-star", "green-star", "red-circle", "blue-circle"]


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    add_tasks(fake, *NAMES)
    with serve(fake):
        yield fake


@pytest.fixture
def connected(store: Store, label_studio: FakeLabelStudio) -> None:
    projects.upsert(
        store, 1, label_config=requests.CONFIG, label_studio_url=label_studio.url, api_key=PERSONAL_TOKEN
    )


@pytest.fixture
def searcher(
    settings: Settings, store: Store, model_server: FakeModelServer, connected: None
) -> Iterator[Searcher]:
    test_settings = settings.model_copy(update={"model_server_url": model_server.url, "bulk_page": 2})
    client, authorizations = ModelClient(test_settings), Authorizations()
    yield Searcher(test_settings, store, client, authorizations)
    client.close()
    authorizations.close()


def pictures_of(model_server: FakeModelServer) -> list[str]:
    """Names of the pictures that were embedded since the last call."""
    media = [row.input["contents"][0]["media"] for row in model_server.embedded]
    model_server.embedded.clear()
    return [media_ref["url"].rsplit("/", 1)[-1].removesuffix(".png") for media_ref in media if media_ref]


def test_the_tasks_most_similar_to_a_text_come_first(searcher: Searcher) -> None:
    result = searcher.by_text(1, "a red star", 3)
    assert [hit.task_id for hit in result.hits] == [2, 1, 3]
    assert result.hits[0].similarity == pytest.approx(1.0, abs=1e-3)
    assert result.hits[1].similarity == pytest.approx(0.5, abs=0.01)
    assert (result.indexed, result.missing) == (5, 0)


def test_tasks_similar_to_a_task_come_without_that_task(searcher: Searcher) -> None:
    assert [hit.task_id for hit in searcher.like_task(1, 4, 2).hits] == [2, 5]


def test_a_second_search_embeds_only_the_query_and_new_tasks(
    searcher: Searcher, model_server: FakeModelServer, label_studio: FakeLabelStudio
) -> None:
    searcher.by_text(1, "red", 1)
    assert sorted(pictures_of(model_server)) == sorted(NAMES)
    searcher.by_text(1, "blue", 1)
    assert pictures_of(model_server) == []
    add_tasks(label_studio, "green-circle", first=6)
    assert searcher.by_text(1, "green circle", 1).hits[0].task_id == 6
    assert pictures_of(model_server) == ["green-circle"]


def test_deleted_tasks_are_not_found(searcher: Searcher, label_studio: FakeLabelStudio) -> None:
    searcher.by_text(1, "red", 1)
    del label_studio.tasks[1]
    result = searcher.by_text(1, "a red star", 5)
    assert {hit.task_id for hit in result.hits} == {1, 3, 4, 5}
    assert (result.indexed, result.missing) == (4, 0)


def test_vectors_of_another_base_model_are_computed_again(
    searcher: Searcher, model_server: FakeModelServer
) -> None:
    searcher.by_text(1, "red", 1)
    model_server.space = "fake two"
    pictures_of(model_server)
    result = searcher.by_text(1, "a red star", 1)
    assert sorted(pictures_of(model_server)) == sorted(NAMES)
    assert (result.hits[0].task_id, result.indexed, result.missing) == (2, 5, 0)


def test_tasks_that_cannot_be_read_are_missing(searcher: Searcher, label_studio: FakeLabelStudio) -> None:
    add_tasks(label_studio, "broken", "forbidden", first=6)
    label_studio.tasks[0]["data"] = {"other": "no picture"}
    result = searcher.by_text(1, "star", 9)
    assert (len(result.hits), result.indexed, result.missing) == (4, 4, 3)


def test_an_unknown_task_an_unknown_project_and_a_failing_model_server_are_errors(
    searcher: Searcher, model_server: FakeModelServer
) -> None:
    with pytest.raises(NotFoundError, match="project 1 has no task 99"):
        searcher.like_task(1, 99, 1)
    with pytest.raises(NotFoundError, match="project 2 is not known here"):
        searcher.by_text(2, "red", 1)
    model_server.status = 500
    with pytest.raises(ModelServerError):
        searcher.by_text(1, "red", 1)


def test_the_text_is_not_embedded_if_no_task_is(
    searcher: Searcher, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    label_studio.tasks = label_studio.tasks[:1]
    label_studio.tasks[0]["data"] = {"other": "no picture"}
    assert searcher.by_text(1, "red", 1) == SearchResult([], 0, 1)
    assert model_server.embedded == []


def test_embedded_tasks_are_found_without_a_token(searcher: Searcher, store: Store) -> None:
    searcher.by_text(1, "red", 1)
    projects.upsert(store, 1, api_key=None)
    result = searcher.by_text(1, "a red star", 1)
    assert (result.hits[0].task_id, result.indexed, result.missing) == (2, 5, None)
    with pytest.raises(ConflictError, match="lorabel connect"):
        searcher.like_task(1, 99, 1)


TWO_OBJECTS = (
    '<View><Image name="image" value="$image"/><Text name="text" value="$text"/>'
    '<Choices name="label" toName="image"><Choice value="red"/><Choice value="blue"/></Choices>'
    '<Choices name="tone" toName="text"><Choice value="kind"/><Choice value="angry"/></Choices></View>'
)
RANKER = '<View><List name="items" value="$items"/><Ranker name="order" toName="items"/></View>'


def test_a_text_is_compared_in_the_space_of_tasks_that_lack_their_picture(
    searcher: Searcher, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    model_server.text_space = "texts one"
    projects.upsert(store, 1, label_config=TWO_OBJECTS)
    for task in label_studio.tasks:
        task["data"] = {"text": task["data"]["image"].rsplit("/", 1)[-1]}
    result = searcher.by_text(1, "a red star", 1)
    assert ([hit.task_id for hit in result.hits], result.indexed, result.missing) == ([2], 5, 0)


def test_tasks_in_another_space_are_missing_and_are_not_embedded_again_at_each_search(
    searcher: Searcher, store: Store, label_studio: FakeLabelStudio, model_server: FakeModelServer
) -> None:
    """The items of one project are texts in some tasks, and pictures in others."""
    model_server.text_space = "texts one"
    projects.upsert(store, 1, label_config=RANKER)
    for task, name in zip(label_studio.tasks, NAMES, strict=True):
        shows = {"html": f'<img src="http://pictures.test/{name}.png">'} if task["id"] > 3 else {"title": name}
        task["data"] = {"items": [{"id": "a", **shows}, {"id": "b", **shows}]}
    first = searcher.by_text(1, "a red star", 9)
    assert ([hit.task_id for hit in first.hits], first.indexed, first.missing) == ([2, 1, 3], 3, 2)
    model_server.embedded.clear()
    for _ in range(2):
        assert searcher.by_text(1, "a red star", 9) == first
        like_picture = searcher.like_task(1, 4, 9)
        assert ([hit.task_id for hit in like_picture.hits], like_picture.missing) == ([5], 3)
    assert len(model_server.embedded) <= 2 + 4 * 2, "the texts, and a task of each space where a pass begins"
