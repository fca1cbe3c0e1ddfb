"""Runs that train LoRA beside a fitted head."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.curve_courses import DIGIT_NAMES, LabeledTask, digits
from lorabel.database import projects, task_features, training_runs, versions
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, TrainingRun, VersionState
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.feature_contracts import FeaturesInput
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.workers.events import START
from tests.workers.pictures import LABEL_CONFIG
from tests.workers.test_finetune import PROJECT, SOURCE, annotate, train, version_of
from workers.services import Services

# Its pictures are drawn when a test asks for them, not when the tests are collected.
course = cache(digits)
TESTED = 200
Open = Callable[..., Services]


@pytest.fixture
def open_services(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A function that opens the services of runs with some settings."""
    opened: list[Services] = []
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)

    def open_with(**changed: Any) -> Services:
        model = {
            "models": {"dual_encoder": SOURCE},
            "precision": "float32",
            "model_server_url": "http://127.0.0.1:9",
        }
        opened.append(Services.open(settings.model_copy(update={**model, **changed})))
        monkeypatch.setattr(Services, "current", lambda: opened[-1])
        return opened[-1]

    yield open_with
    for services in opened:
        services.close()


def test_too_few_tasks_end_a_run_that_nobody_asked_for(open_services: Open, store: Store) -> None:
    open_services(lora_min_tasks=80)
    annotate(store, 1, 20)
    run = train(store, "20 new annotations")
    assert run.version_number is None
    assert run.decision == (
        "grade: the head answers; LoRA begins at 80 tasks (LORA_MIN_TASKS), 20 are annotated; "
        "the next run waits for 25 annotations"
    )
    with store.read() as session:
        assert {row.run_id for row in session.query(Annotation)} == {None}, "they are new for the run that can"
    assert training_runs.request_due(store, Settings()) == []


@pytest.mark.slow
@pytest.mark.long  # in the course of digits a run becomes live, too
@pytest.mark.timeout(900)
def test_a_run_that_is_better_than_the_head_alone_becomes_live_and_answers_unseen_tasks_better(
    open_services: Open, store: Store
) -> None:
    services = open_services(lora_min_tasks=100, train_steps=30)
    projects.upsert(store, PROJECT, label_config=digits_config())
    annotate_digits(store, 1, 120)
    before = Answering.of_base(services, store)
    run = train(store, "120 new annotations")
    version = version_of(store, run)
    assert version.state == VersionState.LIVE
    decision = (
        r"number: log-loss \d\.\d+ is better than the head's \d\.\d+ \(by 0\.\d+ \+- 0\.\d+\) on 120 tasks, "
    )
    assert re.match(decision + "cross-validated; accuracy", str(run.decision)), run.decision
    gain = gain_over_head(run)
    assert gain["is_sure"] and f"(by {gain['log_loss']:.3f} +- {gain['standard_error']:.3f})" in str(run.decision)
    assert gain == version.metrics[versions.OVER_HEAD]["number"]
    assert version.trained_on == list(range(1, 121)), "no task is held out"
    assert versions.tags_beside_head(version) == {"number"}
    with store.read() as session:
        project = projects.get(session, PROJECT)
        assert project.annotation_revision != project.head_revision, "the light worker fits the head anew"
    after = Answering.of_live(services, store)
    assert after.accuracy >= before.accuracy - 0.005
    assert after.log_loss < before.log_loss


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_second_run_chooses_to_go_on_from_the_live_adapter_where_that_is_best(
    open_services: Open, store: Store
) -> None:
    """The second has too few steps for an adapter from nothing, and twice its LEARNING_RATE is too large."""
    tasks = course().shuffled(0)
    open_services(lora_min_tasks=100, train_steps=30)
    projects.upsert(store, PROJECT, label_config=digits_config())
    annotate_digits(store, 1, 120, tasks)
    first = train(store, "120 new annotations")
    assert version_of(store, first).state == VersionState.LIVE, first.decision
    services = open_services(lora_min_tasks=100, train_steps=20, learning_rate=0.05)
    before = Answering.of_live(services, store)
    annotate_digits(store, 121, 100, tasks)
    second = train(store, "100 new annotations")
    decision = str(second.decision)
    assert "live's" in decision and " on 100 tasks, cross-validated" in decision, (
        "live has learned from the others"
    )
    assert "; continued from live" in decision
    gain = gain_over_head(second)
    assert f"; gain over the head alone: log-loss {gain['log_loss']:.3f} +- " in decision
    assert gain["metric"] == "accuracy"
    if second.version_number:
        assert Answering.of_live(services, store).log_loss < before.log_loss
    else:
        assert version_of(store, first).state == VersionState.LIVE


@pytest.mark.slow
def test_a_run_on_ten_tasks_that_somebody_asks_for_never_makes_answers_worse(
    open_services: Open, store: Store
) -> None:
    services = open_services()
    projects.upsert(store, PROJECT, label_config=digits_config())
    annotate_digits(store, 1, 10)
    before = Answering.of_base(services, store)
    run = train(store, "asked for by a test")
    assert run.decision is not None and "cross-validated" in run.decision
    after = Answering.of_live(services, store) if run.version_number else before
    assert after.accuracy >= before.accuracy - 0.005


def gain_over_head(run: TrainingRun) -> dict[str, Any]:
    """What the run's record says of the gain over the head alone."""
    assert run.metrics is not None
    gain: dict[str, Any] = run.metrics[versions.OVER_HEAD]["number"]
    return gain


def digits_config() -> str:
    return course().label_config.replace('name="label"', 'name="number"')


def annotate_digits(store: Store, first: int, count: int, tasks: Sequence[LabeledTask] | None = None) -> None:
    with store.write() as session:
        for number, (data, label) in enumerate(
            (tasks or course().tasks)[first - 1 : first - 1 + count], start=first
        ):
            region = {"from_name": "number", "to_name": "object", "type": "choices", "value": {"choices": [label]}}
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data=data,
                    result=[region],
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )


@dataclass(frozen=True)
class Answering:
    """How well a head answers tasks that nobody annotated: by the truth of the data set, in this process."""

    accuracy: float
    log_loss: float

    @classmethod
    def of_base(cls, services: Services, store: Store) -> "Answering":
        """The head alone, fitted on all annotations."""
        family = services.family(DualEncoder)
        with store.read() as session:
            annotations = list(session.query(Annotation).order_by(Annotation.id))
        asked = [prepare(services, annotation.task_data) for annotation in annotations]
        features = family.predict(
            [family.for_features(row, None) for row in asked], [None] * len(asked), *nothing()
        )
        return cls._of(services, features, [row.question for row in asked], annotations, None)

    @classmethod
    def of_live(cls, services: Services, store: Store) -> "Answering":
        """The head with the live adapter, fitted on the features that the run has kept."""
        with store.read() as session:
            project = projects.get(session, PROJECT)
            (adapter,) = versions.adapters_beside_head(session, project, project.live_number).values()
            annotations = list(session.query(Annotation).order_by(Annotation.id))
            rows = task_features.read(session, PROJECT, "number", [row.task_id or 0 for row in annotations])
        asked = [prepare(services, annotation.task_data).question for annotation in annotations]
        for annotation, question in zip(annotations, asked, strict=True):
            digest = task_features.question_digest(FeaturesInput.of(question), adapter)
            assert rows[annotation.task_id or 0].question == digest, "the light worker need not ask for them"
        features = [task_features.as_features(rows[annotation.task_id or 0]) for annotation in annotations]
        return cls._of(services, features, asked, annotations, adapter)

    @classmethod
    def _of(
        cls, services: Services, features: Any, questions: Any, annotations: list[Annotation], adapter: str | None
    ) -> "Answering":
        family = DualEncoder.load(SOURCE, torch.device("cpu"), torch.float32, services.settings)
        bank = AdapterBank(family, services.adapter_folders, 10**9)
        (binding,) = bind(digits_config()).bindings
        targets = [
            binding.target(annotation.result or [], annotation.task_data or {}) for annotation in annotations
        ]
        head = fit_head(
            [Example.of(*row) for row in zip(questions, features, targets, strict=True)], features[0].space
        )
        asked = [
            family.with_head(prepare(services, data), head, adapter, bank) for data, _ in course().test[:TESTED]
        ]
        outputs = family.predict(asked, [adapter] * len(asked), bank, FeatureCache({TEXTS: 10**6}))
        truths = [DIGIT_NAMES.index(label) for _, label in course().test[:TESTED]]
        probabilities = np.array([output.probabilities for output in outputs])
        losses = -np.log(probabilities[np.arange(TESTED), truths])
        return cls(float((probabilities.argmax(1) == truths).mean()), float(losses.mean()))


def prepare(services: Services, data: Any) -> Any:
    (binding,) = bind(digits_config()).bindings
    return services.family(DualEncoder).prepare(binding.model_input(data), services.fetcher.fetch)


def nothing() -> tuple[NoBatchAdapters, FeatureCache]:
    return NoBatchAdapters(), FeatureCache({})
