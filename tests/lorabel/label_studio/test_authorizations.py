import pytest

from lorabel.errors import LabelStudioError
from lorabel.label_studio import authorizations
from lorabel.label_studio.access import LabelStudioAccess
from lorabel.label_studio.authorizations import Authorizations


class FakeLabelStudio:
    """Gives out the token that it was made with, or refuses it."""

    made: list["FakeLabelStudio"]

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self.api_key = api_key
        self.asked = 0
        self.made.append(self)

    def authorization(self) -> str:
        self.asked += 1
        if self.api_key == "wrong":
            raise LabelStudioError("refused")
        return f"Bearer {self.api_key}"

    def close(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeLabelStudio]:
    FakeLabelStudio.made = []
    monkeypatch.setattr(authorizations, "LabelStudio", FakeLabelStudio)
    return FakeLabelStudio.made


def access(key: str | None, url: str = "http://ls.test", is_trusted: bool = True) -> LabelStudioAccess:
    return LabelStudioAccess(url, key, is_trusted)


def test_one_client_serves_all_requests_with_the_same_address_and_token(made: list[FakeLabelStudio]) -> None:
    found = Authorizations()
    assert [found.find(access("a")), found.find(access("a")), found.find(access("b"))] == [
        "Bearer a",
        "Bearer a",
        "Bearer b",
    ]
    found.find(access("a", "http://other.test"))
    assert len(made) == 3


def test_without_a_token_nobody_is_asked(made: list[FakeLabelStudio]) -> None:
    assert Authorizations().find(None) is None
    assert Authorizations().find(access(None)) is None
    assert made == []


def test_a_host_that_only_setup_named_is_not_called(made: list[FakeLabelStudio]) -> None:
    assert Authorizations().find(access("legacy", is_trusted=False)) == "Token legacy"
    assert made == []


def test_a_refused_token_is_not_tried_again_at_once(
    made: list[FakeLabelStudio], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, clock = Authorizations(), [0.0]
    monkeypatch.setattr(authorizations, "monotonic", lambda: clock[0])
    for seconds, asked in ((0, 1), (10, 1), (29, 1), (31, 2)):
        clock[0] = seconds
        with pytest.raises(LabelStudioError):
            found.find(access("wrong"))
        assert made[0].asked == asked


def test_clients_are_forgotten_from_the_oldest(
    made: list[FakeLabelStudio], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorizations, "MOST_CLIENTS", 2)
    found = Authorizations()
    for key in ("a", "b", "a", "c", "a", "b"):
        found.find(access(key))
    assert [client.api_key for client in made] == ["a", "b", "c", "b"]
