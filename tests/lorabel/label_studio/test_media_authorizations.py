import pytest

from lorabel.errors import LabelStudioError
from lorabel.label_studio import media_authorizations
from lorabel.label_studio.access import LabelStudioAccess
from lorabel.label_studio.media_authorizations import Authorizations


class FakeClient:
    """Stands in for the client `LabelStudio`: its header has the token, unless that is "wrong".

    Attributes:
        created: all clients that were created.
        requests: how often the header was requested.
        is_closed: whether its connections were closed.
    """

    created: list["FakeClient"]

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self.api_key = api_key
        self.requests = 0
        self.is_closed = False
        self.created.append(self)

    def authorization(self) -> str:
        self.requests += 1
        if self.api_key == "wrong":
            raise LabelStudioError("refused")
        return f"Bearer {self.api_key}"

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    FakeClient.created = []
    monkeypatch.setattr(media_authorizations, "LabelStudio", FakeClient)
    return FakeClient.created


def access(key: str | None, url: str = "http://ls.test", is_trusted: bool = True) -> LabelStudioAccess:
    return LabelStudioAccess(url, key, is_trusted)


def test_one_client_serves_all_requests_with_the_same_address_and_token(created: list[FakeClient]) -> None:
    headers = Authorizations()
    assert [headers.find(access(key)) for key in ("a", "a", "b")] == ["Bearer a", "Bearer a", "Bearer b"]
    headers.find(access("a", "http://other.test"))
    assert len(created) == 3


def test_without_a_token_no_client_is_created(created: list[FakeClient]) -> None:
    assert Authorizations().find(None) is None
    assert Authorizations().find(access(None)) is None
    assert created == []


def test_a_host_that_only_setup_names_is_not_called(created: list[FakeClient]) -> None:
    assert Authorizations().find(access("legacy", is_trusted=False)) == "Token legacy"
    assert created == []


def test_a_refused_token_is_tried_again_only_after_30_seconds(
    created: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, clock = Authorizations(), [0.0]
    monkeypatch.setattr(media_authorizations, "monotonic", lambda: clock[0])
    for seconds, requests in ((0, 1), (10, 1), (29, 1), (31, 2)):
        clock[0] = seconds
        with pytest.raises(LabelStudioError):
            headers.find(access("wrong"))
        assert created[0].requests == requests


def test_the_least_recently_used_client_is_dropped_first(
    created: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_authorizations, "MOST_CLIENTS", 2)
    headers = Authorizations()
    for key in ("a", "b", "a", "c", "a", "b"):
        headers.find(access(key))
    assert [client.api_key for client in created] == ["a", "b", "c", "b"]


def test_a_client_that_is_dropped_is_closed(created: list[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_authorizations, "MOST_CLIENTS", 2)
    headers = Authorizations()
    for key in ("a", "b", "c"):
        headers.find(access(key))
    assert [client.is_closed for client in created] == [True, False, False]
    headers.close()
    assert all(client.is_closed for client in created)
