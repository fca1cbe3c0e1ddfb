import logging
from typing import Any, cast

import pytest

from lorabel.database import projects, versions
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, VersionState
from lorabel.errors import ConflictError, ModelServerError, NotFoundError
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient


class Preloads:
    """Stands in for the model server's client; `is_down` is a fault that the real one has only when killed."""

    def __init__(self, is_down: bool = False) -> None:
        self.calls: list[list[str]] = []
        self.is_down = is_down

    def preload(self, adapters: list[str]) -> None:
        self.calls.append(adapters)
        if self.is_down:
            raise ModelServerError("cannot be reached")


@pytest.fixture(autouse=True)
def two_versions(store: Store) -> None:
    projects.remember(store, 1, label_config="<View/>")
    with store.write() as session:
        for number in (1, 2):
            session.add(
                ModelVersion(
                    project_id=1,
                    number=number,
                    parent=number - 1,
                    state=VersionState.CANDIDATE,
                    base_models={},
                    adapters={"label": f"p1.v{number}/label"},
                    metrics={},
                    trained_on=[],
                )
            )


def promote(store: Store, number: int, client: Any = None) -> str:
    return promotion.promote(store, cast(ModelClient, client or Preloads()), 1, number)


def states(store: Store) -> dict[str, str]:
    with store.read() as session:
        return {version.name: version.state for version in versions.list_of(session, 1)}


def test_promotion_loads_first_and_retires_the_version_before(store: Store) -> None:
    client = Preloads()
    assert promote(store, 1, client) == "p1.v1"
    assert client.calls == [["p1.v1/label"]]
    assert promote(store, 2) == "p1.v2"
    assert states(store) == {"p1.v1": "retired", "p1.v2": "live"}
    with store.read() as session:
        assert versions.live_adapters(session, projects.get(session, 1)) == {"label": "p1.v2/label"}


def test_rollback_goes_to_the_parent_and_ends_at_the_base_models(store: Store) -> None:
    promote(store, 2)
    client = cast(ModelClient, Preloads())
    assert promotion.rollback(store, client, 1) == "p1.v1"
    assert states(store) == {"p1.v1": "live", "p1.v2": "retired"}
    assert promotion.rollback(store, client, 1) == "p1.v0"
    with pytest.raises(ConflictError, match="project 1 runs on the base models"):
        promotion.rollback(store, client, 1)


def test_a_model_server_that_is_down_does_not_stop_a_promotion(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert promote(store, 1, Preloads(is_down=True)) == "p1.v1"
    assert "are not preloaded: cannot be reached" in caplog.text


def test_an_unknown_version_names_the_known_ones(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no version p1\.v7; known: p1\.v2, p1\.v1"):
        promote(store, 7)


@pytest.mark.parametrize("name", ["p1.v3", "v3", "3", 3])
def test_a_version_may_be_named_in_short(name: str | int) -> None:
    assert versions.parse_number(1, name) == 3


@pytest.mark.parametrize("name", ["p2.v3", "latest", "", "p1.v"])
def test_another_projects_version_is_refused(name: str) -> None:
    with pytest.raises(NotFoundError, match="names no version of project 1"):
        versions.parse_number(1, name)
