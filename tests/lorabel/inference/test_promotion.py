import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest

from lorabel.database import projects, versions
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, VersionState
from lorabel.errors import ConflictError, ModelServerError, NotFoundError
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer


class FakeModelClient:
    """Stands in for the client of the model server and records the adapters that are to be preloaded.

    `is_down`: whether the model server cannot be reached. The real one is down only when it was killed.
    """

    def __init__(self, is_down: bool = False) -> None:
        self.preloaded: list[tuple[list[str], str | None]] = []
        self.is_down = is_down

    def preload(self, adapters: list[str], family: str | None) -> None:
        self.preloaded.append((adapters, family))
        if self.is_down:
            raise ModelServerError("cannot be reached")


@pytest.fixture(autouse=True)
def two_versions(store: Store) -> None:
    projects.upsert(store, 1, label_config="<View/>")
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
                    metrics={"families": {"label": "dual_encoder"}},
                    trained_on=[],
                )
            )


def promote(store: Store, number: int, client: Any = None) -> str:
    return promotion.promote(store, cast(ModelClient, client or FakeModelClient()), 1, number)


def states(store: Store) -> dict[str, str]:
    with store.read() as session:
        return {version.name: version.state for version in versions.list_of(session, 1)}


def test_promotion_preloads_the_adapters_and_retires_the_version_that_was_live(store: Store) -> None:
    client = FakeModelClient()
    assert promote(store, 1, client) == "p1.v1"
    assert client.preloaded == [(["p1.v1/label"], "dual_encoder")]
    assert promote(store, 2) == "p1.v2"
    assert states(store) == {"p1.v1": "retired", "p1.v2": "live"}
    with store.read() as session:
        assert versions.live_adapters(session, projects.get(session, 1)) == {"label": "p1.v2/label"}


def test_rollback_makes_the_parent_live_and_is_refused_when_the_base_models_are_live(store: Store) -> None:
    promote(store, 2)
    client = cast(ModelClient, FakeModelClient())
    assert promotion.rollback(store, client, 1) == "p1.v1"
    assert states(store) == {"p1.v1": "live", "p1.v2": "retired"}
    assert promotion.rollback(store, client, 1) == "p1.v0"
    with pytest.raises(ConflictError, match="project 1 runs on the base models"):
        promotion.rollback(store, client, 1)


def test_promotion_succeeds_while_the_model_server_is_down(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert promote(store, 1, FakeModelClient(is_down=True)) == "p1.v1"
    assert "are not preloaded: cannot be reached" in caplog.text


def test_promotion_of_an_unknown_version_names_the_known_versions(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no version p1\.v7; known: p1\.v2, p1\.v1, p1\.v0"):
        promote(store, 7)


@pytest.fixture
def real_client(model_server: FakeModelServer, settings: Settings) -> Iterator[ModelClient]:
    client = ModelClient(settings.model_copy(update={"model_server_url": model_server.url}))
    yield client
    client.close()


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (409, ConflictError)])
def test_a_version_whose_adapters_the_model_server_refuses_does_not_become_live(
    store: Store, model_server: FakeModelServer, real_client: ModelClient, status: int, error: type[Exception]
) -> None:
    """404: the adapter's folder is missing. 409: the adapter was trained on another base model."""
    promote(store, 1, real_client)
    model_server.status = status
    with pytest.raises(error, match=f"answered {status} to /v1/preload"):
        promote(store, 2, real_client)
    assert states(store) == {"p1.v1": "live", "p1.v2": "candidate"}


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_model_server_that_cannot_tell_does_not_stop_a_promotion(
    store: Store, model_server: FakeModelServer, real_client: ModelClient, status: int
) -> None:
    model_server.status = status
    assert promote(store, 1, real_client) == "p1.v1"


def test_a_version_that_records_no_families_is_promoted_although_no_loaded_family_fits_it(
    store: Store, model_server: FakeModelServer, real_client: ModelClient
) -> None:
    """Its family may be one that is not loaded. A missing folder is refused all the same."""
    with store.write() as session:
        versions.get(session, 1, 1).metrics = {}
    model_server.status = 404
    with pytest.raises(NotFoundError):
        promote(store, 1, real_client)
    model_server.status = 409
    assert promote(store, 1, real_client) == "p1.v1"
