"""Heads on the features of an adapter: which head answers with which adapter, before and after a promotion."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from lorabel.database import project_heads, projects, versions
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, ProjectHead, VersionState
from lorabel.inference import prediction
from lorabel.inference.prediction import ProjectModel
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT
from tests.workers.test_head_fitting import REMAINING, fit, fitter_of, head_file, submitted
from tests.workers.test_requeue_sweep import RecordedJobs
from workers import feature_collection
from workers.services import Services

ADAPTER = "p1.v1/label"


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    real = Services.open(settings.model_copy(update={"model_server_url": model_server.url}))
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


def make_live(services: Services, kind: str = versions.BESIDE_HEAD) -> None:
    """Make version 1 live, as a training run does.

    Args:
        kind: whether its adapter computes features for the head, or answers in place of the head.
    """
    with services.store.write() as session:
        project = projects.get(session, PROJECT, is_locked=True)
        session.add(
            ModelVersion(
                project_id=PROJECT,
                number=1,
                parent=0,
                state=VersionState.CANDIDATE,
                base_models={},
                adapters={"label": ADAPTER},
                metrics={kind: ["label"]},
                trained_on=[],
            )
        )
        session.flush()
        versions.make_live(session, project, 1)
        project_heads.count_change(project)


def head(services: Services) -> ProjectHead:
    with services.store.read() as session:
        row = project_heads.of_project(session, PROJECT)["label"]
        session.refresh(row, ["annotation_ids"])
        return row


def asked(services: Services) -> tuple[str | None, bool]:
    """The adapter of the row that asks about a task, and whether a head answers it."""
    with services.store.read() as session:
        model = ProjectModel.of(session, projects.get(session, PROJECT), services.settings)
    data = {"image": "http://pictures.test/red1.png"}
    (question,) = prediction.questions_about(model, model.bound.bindings, data, lambda media: media)
    assert isinstance(question, prediction.Question)
    row = question.row()
    return row.adapter, row.head is not None


def test_the_former_head_answers_until_all_features_of_the_new_adapter_are_there(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(services, *REMAINING)
    former, number = head_file(services), head(services).folder
    assert (head(services).adapter, asked(services)) == (None, (None, True))
    make_live(services)
    assert asked(services) == (None, True), "at once after the promotion"
    monkeypatch.setattr(feature_collection, "MOST_ASKED", 1)
    assert fitter_of(services).fit_due(), "there is more to compute"
    assert (head(services).folder, head_file(services), asked(services)) == (number, former, (None, True))
    fit(services)
    assert (head(services).adapter, asked(services)) == (ADAPTER, (ADAPTER, True))
    assert head_file(services) != former


def test_an_annotation_during_the_switch_is_learned_with_the_new_adapter(services: Services) -> None:
    fit(services, *REMAINING)
    make_live(services)
    fit(services, submitted(8, "blue"))
    assert head(services).adapter == ADAPTER
    assert 8 in head(services).annotation_ids


def test_without_its_head_an_adapter_beside_it_answers_nothing(services: Services) -> None:
    """Its features do not fit the label texts: the base model alone is better than both together."""
    fit(services, *REMAINING)
    make_live(services)
    fit(
        services,
        *(
            {**body, "action": "ANNOTATIONS_DELETED", "annotations": [{"id": i}]}
            for i, body in enumerate([submitted(n, "red") for n in (1, 2, 3, 4)], 1)
        ),
    )
    assert asked(services) == (None, False)


def test_an_adapter_that_was_better_than_the_head_answers_in_its_place(services: Services) -> None:
    fit(services, *REMAINING)
    make_live(services, versions.IN_PLACE_OF_HEAD)
    assert asked(services) == (ADAPTER, False)
    fit(services, submitted(8, "blue"))
    assert asked(services) == (ADAPTER, False), "no head is fitted meanwhile"


def test_features_that_the_run_has_kept_are_not_computed_again(
    services: Services, model_server: FakeModelServer
) -> None:
    fit(services, *REMAINING)
    make_live(services)
    fit(services)
    count = len(model_server.featured)
    with services.store.write() as session:
        project_heads.count_change(projects.get(session, PROJECT, is_locked=True))
    fit(services)
    assert len(model_server.featured) == count
