"""Annotated relations in a training run: nothing is trained for them, and what cannot be used has its reason."""

from datetime import timedelta
from typing import Any

import pytest

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, RunState
from lorabel.labeling.regions import Region
from tests.related_sentences import LABEL_CONFIG, sentence
from tests.workers.events import START
from tests.workers.test_finetune import PROJECT, train
from tests.workers.test_runs_of_headed_tags import services as services
from workers.services import Services

pytestmark = pytest.mark.slow

ANNOTATED = 12


def annotate(store: Store, results: list[list[Region]]) -> None:
    projects.upsert(store, PROJECT, label_config=LABEL_CONFIG)
    with store.write() as session:
        for number, result in enumerate(results):
            session.add(
                Annotation(
                    id=number,
                    project_id=PROJECT,
                    task_id=number,
                    task_data={"text": sentence(number).text},
                    result=result,
                    updated_at=START + timedelta(seconds=number),
                    times_applied=1,
                )
            )


def spoiled(result: list[Region], **changed: Any) -> list[Region]:
    """A result with one more relation, from its first region, as changed."""
    first = result[0]["id"]
    relation = {"type": "relation", "from_id": first, "to_id": "gone", "direction": "right", "labels": ["owns"]}
    return [*result, {**relation, **changed}]


def test_a_run_with_relations_that_cannot_be_used_ends_well_and_says_why(services: Services, store: Store) -> None:
    results = [sentence(number).result for number in range(ANNOTATED)]
    related = next(number for number, result in enumerate(results) if result[-1]["type"] == "relation")
    results[related] = spoiled(results[related])
    alone = ANNOTATED - 1
    spans = [item for item in results[alone] if item["type"] != "relation"]
    results[alone] = spoiled(spans, to_id=spans[0]["id"])
    broken = ANNOTATED - 2
    results[broken] = [None, {"type": "relation"}]  # type: ignore[list-item]
    annotate(store, results)
    run = train(store)
    assert run.state == RunState.FINISHED and run.error is None
    assert "<Relations>: only a head learns this, after every annotation" in (run.decision or "")
    assert run.metrics is not None
    skipped, left_out = (run.metrics[kind]["<Relations>"] for kind in ("skipped", "left_out"))
    assert "which is none of 'entity'" in left_out[str(related)]
    assert "with itself" in skipped[str(alone)]
    assert "expected a list of regions" in skipped[str(broken)]
    assert str(related) not in skipped
