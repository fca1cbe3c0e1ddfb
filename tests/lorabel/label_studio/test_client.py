import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest

from lorabel.database.project_keys import LabelStudioId
from lorabel.errors import LabelStudioError, LabelStudioRefusedError
from lorabel.label_studio.access_token import read_claims
from lorabel.label_studio.client import TASKS_PER_PAGE, LabelStudio
from lorabel.label_studio.records import Server
from tests.lorabel.fake_label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, FakeLabelStudio, make_jwt, serve


@pytest.fixture
def server() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    with serve(fake):
        yield fake


@pytest.fixture
def client(server: FakeLabelStudio) -> Iterator[LabelStudio]:
    label_studio = LabelStudio(server.url + "/", PERSONAL_TOKEN)
    yield label_studio
    label_studio.close()


def test_a_personal_access_token_is_exchanged_once_and_then_reused(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    assert client.email() == "annotator@example.com"
    assert client.email() == "annotator@example.com"
    assert server.exchanges == 1
    assert (client.authorization() or "").startswith("Bearer ")


def test_many_threads_share_one_exchange(server: FakeLabelStudio, client: LabelStudio) -> None:
    with ThreadPoolExecutor(16) as pool:
        headers = set(pool.map(lambda _: client.authorization(), range(64)))
    assert len(headers) == 1
    assert server.exchanges == 1


def test_an_access_token_is_renewed_before_it_expires(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.lifetime_s = 1
    first = client.authorization()
    time.sleep(0.85)
    assert client.authorization() != first
    assert server.exchanges == 2


def test_a_legacy_token_is_sent_as_it_is(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, LEGACY_TOKEN)
    assert client.authorization() == f"Token {LEGACY_TOKEN}"
    assert client.email() == "annotator@example.com"
    assert server.exchanges == 0
    client.close()


def test_without_a_token_there_is_no_header_and_the_version_can_be_read(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, None)
    assert client.authorization() is None
    assert client.server().version == "1.23.2"
    assert server.authorizations == [None]
    client.close()


def test_the_error_about_a_revoked_personal_access_token_says_what_to_do(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, make_jwt(token_type="refresh"))
    with pytest.raises(
        LabelStudioError, match=r"refuses the personal access token.*Account & Settings"
    ) as refused:
        client.authorization()
    assert "{" not in str(refused.value)
    client.close()


def test_the_error_about_a_refused_legacy_token_says_which_token_to_use(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, "f" * 40)
    with pytest.raises(LabelStudioRefusedError, match=r"has been disabled.*Personal Access Token") as refused:
        client.email()
    assert refused.value.status_code == 401
    assert ".;" not in str(refused.value)
    client.close()


@pytest.mark.parametrize("token", [None, LEGACY_TOKEN, PERSONAL_TOKEN])
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no-address"])
def test_the_error_about_an_address_where_no_server_answers_names_the_address(url: str, token: str | None) -> None:
    client = LabelStudio(url, token, timeout_s=1.0)
    with pytest.raises(LabelStudioError, match=url):
        client.project(1)
    client.close()


def test_a_web_page_instead_of_json_is_not_shown_in_the_error(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    with pytest.raises(LabelStudioRefusedError, match="is this Label Studio's address") as refused:
        client.project(LabelStudioId(2))
    assert "doctype" not in str(refused.value)


@pytest.mark.parametrize("date", ["yesterday", "Thu, 99 Nov 2026 10:00 GMT", "", "x" * 10_000])
def test_a_date_that_a_proxy_has_changed_leaves_the_clock_unknown(
    server: FakeLabelStudio, client: LabelStudio, date: str
) -> None:
    server.date = date
    unread = f"the Date header of its answer, {date[:80]!r}, is no time"
    assert client.server() == Server("1.23.2", None, unread)


def test_a_date_without_a_zone_is_utc(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.date = formatdate(time.time() + 3600)
    assert server.date.endswith("-0000")
    ahead_s = client.server().clock_ahead_s
    assert ahead_s is not None and abs(ahead_s - 3600) < 60


def test_an_answer_without_a_date_leaves_the_clock_unknown() -> None:
    assert Server.of({"release": "1.23.2"}, None) == Server("1.23.2", None, "its answer has no Date header")


def test_an_answer_that_is_no_version_is_said(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.version = ["hello"]
    with pytest.raises(LabelStudioError, match=r"/api/version answered no object; is there a Label Studio\?"):
        client.server()


def test_a_redirect_names_where_it_leads(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.redirects["/api/version"] = "https://login.example/?next=/api/version"
    with pytest.raises(LabelStudioRefusedError, match=r"302: a redirect to 'https://login\.example/.*login page"):
        client.server()


def test_each_annotated_task_of_all_pages_comes_once(server: FakeLabelStudio, client: LabelStudio) -> None:
    server.tasks = [_task(i, annotations=i % 2, skips=int(i % 3 == 0)) for i in range(1, 3 * TASKS_PER_PAGE)]
    task_ids = [task.task_id for task in client.annotated_tasks(1)]
    assert sorted(task_ids) == [i for i in range(1, 3 * TASKS_PER_PAGE) if i % 2 or i % 3 == 0]


def test_no_task_is_skipped_when_others_are_deleted_between_two_pages(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    server.tasks = [_task(i) for i in range(1, 2 * TASKS_PER_PAGE + 1)]
    tasks = client.annotated_tasks(1)
    task_ids = [next(tasks).task_id]
    server.tasks = server.tasks[5:]
    task_ids += [task.task_id for task in tasks]
    assert task_ids == list(range(1, 2 * TASKS_PER_PAGE + 1))


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.%%%.c", LEGACY_TOKEN, "a.WzFd.c"])
def test_a_string_that_is_not_a_jwt_has_no_claims(token: str) -> None:
    assert read_claims(token) == {}


def _task(task_id: int, annotations: int = 1, skips: int = 0) -> dict[str, Any]:
    return {
        "id": task_id,
        "data": {"image": f"/data/upload/1/{task_id}.png"},
        "annotations": [{"id": task_id}] * (annotations + skips),
        "predictions": [],
        "total_annotations": annotations,
        "cancelled_annotations": skips,
    }
