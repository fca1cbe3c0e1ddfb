"""When nothing is learned with DP_EPSILON: which tasks are learned from must not depend on the other tasks."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lorabel.contracts import LabelTarget
from lorabel.database import forgotten_learning, privacy_ledger, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Project
from lorabel.families.base import Family
from lorabel.labeling import regions
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.questions import about_picture
from tests.workers.events import PROJECT, START
from workers import candidate, lora, private_heads, private_training
from workers.annotated_tasks import AnnotatedTask, AnnotatedTasks
from workers.attempt import TrainingContext
from workers.examples import PreparedExample, TrainingExample, TrainingPlan
from workers.feature_collection import Collected
from workers.privacy_accounting import Mechanism
from workers.privacy_budget import OvertakenError, PrivacyError, spend
from workers.reading import Reading
from workers.services import Services

CONFIG = (
    '<View><Choices name="label" toName="text"><Choice value="a"/><Choice value="b"/></Choices>'
    '<Text name="text" value="$text"/></View>'
)
QUESTION = about_picture("x", ("a", "b"))
RECIPE = lora.Recipe(4, 1e-2, 1, 8, 30, 1, "float32")
MECHANISM = Mechanism(10.0, 1.0, 1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"dp_epsilon": 3.0, "head_max_tasks": 100})


@pytest.fixture
def project(store: Store) -> Project:
    projects.upsert(store, PROJECT)
    with store.read() as session:
        return projects.get(session, PROJECT)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each head was fitted on."""
    counts: list[int] = []
    monkeypatch.setattr(private_heads, "_fit", lambda *arguments: counts.append(len(arguments[4].tasks)))
    return counts


def fit(store: Store, settings: Settings, project: Project, readable: int, chosen: int, **changed: bool) -> None:
    """Fit the head of `chosen` tasks, of which some can be read."""
    services = cast(Services, type("Parts", (), {"store": store, "settings": settings}))
    tasks = [AnnotatedTask(((number, 1),), labels="same") for number in range(readable)]
    collected = Collected(tasks, {}, is_outdated=False, chosen=frozenset(range(chosen)))
    how = {"is_complete": True, "is_cut": False} | changed
    private_heads.private_heads(services, project, {"label": collected}, {}, **how)


def spend_on(store: Store, settings: Settings, tasks: int, newest_id: int | None = None) -> int:
    arguments = (store, settings, PROJECT, "label", MECHANISM, tasks, privacy_ledger.HEAD, "same")
    return spend(*arguments, newest_id=newest_id).id


def test_tasks_that_cannot_be_read_count_for_the_limit(
    store: Store, settings: Settings, project: Project, fitted: list[int]
) -> None:
    """Each of them has taken the place of a task that one annotation more or less would bring back."""
    fit(store, settings, project, readable=99, chosen=100)
    assert fitted == []
    fit(store, settings, project, readable=98, chosen=99)
    assert fitted == [98]


def test_nothing_is_fitted_where_not_all_annotations_were_read(
    store: Store, settings: Settings, project: Project, fitted: list[int]
) -> None:
    fit(store, settings, project, readable=70, chosen=70, is_cut=True)
    assert fitted == []


@pytest.mark.parametrize(("annotators", "is_cut"), [(1, False), (3, False), (4, True)])
def test_annotations_of_many_annotators_reach_the_limit(
    store: Store, settings: Settings, project: Project, annotators: int, is_cut: bool
) -> None:
    with store.write() as session:
        for number in range(5 * annotators):
            choice = regions.choices("label", "text", ["a"])
            session.add(
                Annotation(
                    id=number + 1,
                    project_id=PROJECT,
                    task_id=number % 5 + 1,
                    received_at=START,
                    task_data={"text": "x"},
                    result=[choice],
                )
            )
    annotated = AnnotatedTasks(CONFIG, {})
    with store.read() as session:
        annotated.update(session, project, bind(CONFIG), settings.model_copy(update={"head_max_tasks": 10}))
    assert annotated.is_cut is is_cut
    assert len(annotated.by_tag["label"]) == 5


def test_a_head_that_was_forgotten_is_fitted_again_from_the_first_tasks_on(
    store: Store, settings: Settings, project: Project, fitted: list[int]
) -> None:
    spend_on(store, settings, 64)
    fit(store, settings, project, readable=70, chosen=70)
    assert fitted == []
    with store.write() as session:
        forgotten_learning.reset_heads(session, projects.get(session, PROJECT, is_locked=True))
    fit(store, settings, project, readable=70, chosen=70)
    assert fitted == [70]
    with store.read() as session:
        spent = privacy_ledger.spent(session, PROJECT)
    assert spent is not None and spent.heads == 1 and spent.epsilon > 0


def test_two_workers_that_find_the_same_fit_due_spend_once(
    store: Store, settings: Settings, project: Project
) -> None:
    """On SQLite two workers may fit the heads of a project at a time."""
    first = spend_on(store, settings, 64)
    with pytest.raises(OvertakenError):
        spend_on(store, settings, 64)
    assert spend_on(store, settings, 256, newest_id=first) > first
    with store.read() as session:
        assert len(privacy_ledger.releases(session, PROJECT)) == 2


@pytest.mark.parametrize(
    ("new_left", "replayed_left", "is_plan_partial"),
    [({1}, set(), False), (set(), {1}, False), (set(), set(), True), (set(), set(), False)],
)
def test_an_adapter_is_not_trained_on_a_part_of_the_tasks(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    new_left: set[int],
    replayed_left: set[int],
    is_plan_partial: bool,
) -> None:
    example = TrainingExample((2,), 2, QUESTION, LabelTarget((0,)), 0, True)
    prepared = [PreparedExample(example, cast(Any, None))]
    readings = [
        Reading(prepared, {}, frozenset(new_left)),
        Reading([], {}, frozenset(replayed_left)),
        Reading([], {}, frozenset()),
    ]
    noted: list[bool] = []

    def refuse(*arguments: Any, is_partial: bool) -> None:
        noted.append(is_partial)
        raise PrivacyError("refused")

    monkeypatch.setattr(lora, "adapted", lambda *arguments: nullcontext())
    monkeypatch.setattr(candidate, "_read", lambda *arguments: readings)
    monkeypatch.setattr(private_training, "prepare", refuse)
    plan = replace(TrainingPlan([example], [], {}, {}), is_partial=is_plan_partial)
    context = TrainingContext(None, lambda media: media)
    services = cast(Services, type("Parts", (), {"settings": settings}))
    problem: Problem = bind(CONFIG).bindings[0]
    attempt = candidate.make_candidate(
        services, problem, cast(Family, None), plan, context, RECIPE, Path(), lambda progress: None
    )
    assert attempt.decision == "refused"
    assert noted == [bool(new_left or replayed_left or is_plan_partial)]
