"""Heads of versions: a rollback goes back to the head of then, and to what it was fitted on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import event

from lorabel.commands.training_check import training_checks
from lorabel.database import project_heads, projects, versions
from lorabel.database.adapter_folders import HEAD_FILE
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, VersionState
from lorabel.inference import promotion
from lorabel.inference.prediction import ProjectModel
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT
from tests.workers.test_head_fitting import COLOURS, REMAINING, fit, head_file, is_due, project, submitted
from tests.workers.test_requeue_sweep import RecordedJobs
from workers.services import Services


@pytest.fixture
def services(settings: Settings, store: Store, model_server: FakeModelServer) -> Iterator[Services]:
    real = Services.open(settings.model_copy(update={"model_server_url": model_server.url}))
    yield replace(real, jobs=cast(Any, RecordedJobs()))
    real.close()


def promote_by_run(services: Services, number: int) -> None:
    """Make a version with the heads that answer now, and make it live, as a training run does."""
    file = head_file(services)
    assert file is not None

    def write_into(folder: Any) -> None:
        (folder / "label").mkdir()
        (folder / "label" / HEAD_FILE).write_bytes(file)

    services.adapter_folders.write(f"p{PROJECT}.v{number}", write_into)
    with services.store.write() as session:
        row = projects.get(session, PROJECT, is_locked=True)
        version = ModelVersion(
            project_id=PROJECT,
            number=number,
            parent=row.live_number,
            state=VersionState.CANDIDATE,
            base_models={},
            adapters={},
            metrics={},
            trained_on=[],
        )
        project_heads.store_with(version, row, project_heads.answering_with_annotation_ids(session, row))
        session.add(version)
        session.flush()
        versions.make_live(session, row, number)
        project_heads.count_all_again(row)


def make_live(services: Services, number: int) -> None:
    """As `lorabel promote` does."""
    promotion.promote(services.store, services.model_client, PROJECT, number)


def test_a_promotion_by_a_run_keeps_the_newest_head(services: Services) -> None:
    fit(services, *REMAINING)
    before = head_file(services)
    promote_by_run(services, 1)
    assert head_file(services) == before and project(services).served_version == "p1.v1.h1"
    fit(services, submitted(11, "blue"))
    assert head_file(services) != before and project(services).served_version == "p1.v1.h2"


def test_a_rollback_goes_back_to_the_head_of_then(services: Services) -> None:
    fit(services, *REMAINING)
    of_then = head_file(services)
    promote_by_run(services, 1)
    fit(services, submitted(11, "blue"))
    promote_by_run(services, 2)
    fit(services, submitted(12, "blue"))
    make_live(services, 1)
    assert head_file(services) == of_then and project(services).served_version == "p1.v1.h1"
    assert not is_due(services), "a fit would replace the head of then"


def test_after_a_rollback_heads_learn_from_what_the_head_of_then_knew_and_from_what_is_new(
    services: Services,
) -> None:
    fit(services, *REMAINING, submitted(13, "red"))
    expected = head_file(services)
    fit(services, {"action": "ANNOTATIONS_DELETED", **_deleted(13)})
    promote_by_run(services, 1)
    fit(services, submitted(11, "blue"), submitted(12, "blue"))
    promote_by_run(services, 2)
    make_live(services, 1)
    fit(services, {**submitted(14, "red"), "task": {**submitted(13, "red")["task"], "id": 14}})
    assert head_file(services) == expected, "11 and 12 came between"
    promote_by_run(services, 3)
    fit(services)
    assert head_file(services) != expected, "a run's promotion has them count again"


def test_a_rollback_to_the_base_models_is_zero_shot_until_somebody_annotates(services: Services) -> None:
    fit(services, *REMAINING)
    promote_by_run(services, 1)
    make_live(services, 0)
    fit(services)
    assert head_file(services) is None and project(services).served_version == "p1.v0"
    fit(services, submitted(21, "red"), submitted(22, "blue"))
    assert head_file(services) is not None


def test_a_head_on_few_annotations_does_not_answer_in_place_of_an_adapter_that_learned_from_many(
    services: Services,
) -> None:
    """As after a rollback to a version from before there were heads."""
    fit(services, *REMAINING)
    add_version_with_adapter(services, 1, trained_on=200)
    make_live(services, 1)
    fit(services, submitted(21, "red"), submitted(22, "blue"))
    assert (head_file(services), adapters(services)) == (None, {"label": "p1.v1/label"})
    fit(services, *(submitted(number, COLOURS[number % 2]) for number in range(23, 121)))
    assert head_file(services) is not None


def add_version_with_adapter(services: Services, number: int, trained_on: int) -> None:
    """A version without heads, whose adapter answers by itself."""
    with services.store.write() as session:
        session.add(
            ModelVersion(
                project_id=PROJECT,
                number=number,
                parent=0,
                state=VersionState.CANDIDATE,
                base_models={},
                adapters={"label": f"p{PROJECT}.v{number}/label"},
                metrics={},
                trained_on=list(range(1, trained_on + 1)),
            )
        )


def adapters(services: Services) -> dict[str, str]:
    with services.store.read() as session:
        return ProjectModel.of(session, projects.get(session, PROJECT), services.settings).adapters


def test_after_a_rollback_the_limit_of_tasks_is_not_used_up_by_what_came_between(services: Services) -> None:
    limited = replace(services, settings=services.settings.model_copy(update={"head_max_tasks": 4}))
    fit(limited, *REMAINING)
    promote_by_run(limited, 1)
    fit(limited, *(submitted(number, COLOURS[number % 2], number) for number in range(30, 42)))
    promote_by_run(limited, 2)
    make_live(limited, 1)
    fit(limited, submitted(50, "red", 50))
    with services.store.read() as session:
        known = project_heads.of_project(session, PROJECT)["label"].annotation_ids
    assert len(known) == 4 and set(known) <= {1, 2, 3, 4, 50}, "12 annotations came between"


def test_annotations_that_are_left_out_are_counted_and_learned_from_on_request(services: Services) -> None:
    fit(services, *REMAINING)
    promote_by_run(services, 1)
    fit(services, submitted(11, "blue"), submitted(12, "red"))
    of_all = head_file(services)
    make_live(services, 1)
    fit(services)
    assert head_file(services) != of_all and left_out(services) == 2
    (check,) = training_checks(services.store, project(services))
    assert "2 annotations are left out" in check.finding and "promote 1 p1.v1 --all-annotations" in check.finding
    promotion.promote(services.store, services.model_client, PROJECT, 1, learns_from_all=True)
    fit(services)
    assert head_file(services) == of_all and left_out(services) == 0
    assert not list(training_checks(services.store, project(services)))
    make_live(services, 0)
    assert left_out(services) == 6
    fit(services, submitted(21, "red"))
    assert left_out(services) == 6, "what is new is learned from"


def test_a_project_that_no_head_could_answer_leaves_nothing_out(services: Services) -> None:
    """Free texts are left to people. Before the fix the two annotations were said to be left out."""
    texts = '<View><Image name="image" value="$image"/><TextArea name="label" toName="image"/></View>'
    fit(services, submitted(1, "red"), submitted(2, "blue"))
    make_live(services, 0)
    assert left_out(services) == 2
    projects.upsert(services.store, PROJECT, label_config=texts)
    assert left_out(services) == 0


def left_out(services: Services) -> int:
    with services.store.read() as session:
        return project_heads.count_left_out(session, projects.get(session, PROJECT))


def test_what_the_heads_of_a_version_were_fitted_on_is_in_its_record_once(services: Services) -> None:
    fit(services, *REMAINING)
    promote_by_run(services, 1)
    with services.store.read() as session:
        version = versions.get(session, PROJECT, 1)
        assert version.head_annotation_ids == {"label": [1, 2, 3, 4]}
        assert version.metrics["heads"]["label"]["annotations"] == 4
        assert str([1, 2, 3, 4]) not in str(version.metrics), "which every run of the version copies"


def test_heads_that_are_replaced_while_they_are_read_are_those_of_one_moment(services: Services) -> None:
    """A training run notes the heads that answer. Meanwhile the light worker fits others, or none."""
    fit(services, *REMAINING)
    is_replaced = False

    def replace_heads(*arguments: Any) -> None:
        nonlocal is_replaced
        if "FROM project_head" in arguments[2] and not is_replaced:
            is_replaced = True
            with services.store.write() as session:
                project_heads.replace(session, projects.get(session, PROJECT), {}, 0)

    with services.store.read() as session:
        row = projects.get(session, PROJECT)
        event.listen(services.store.engine, "after_cursor_execute", replace_heads)
        heads = project_heads.answering_with_annotation_ids(session, row)
    assert is_replaced and heads["label"].annotation_ids == [1, 2, 3, 4]


def test_a_prediction_reads_no_annotation_ids(services: Services) -> None:
    """Of 10,000 annotations, they took longer to read than everything else."""
    fit(services, *REMAINING)
    add_version_with_adapter(services, 1, trained_on=6)
    with services.store.write() as session:
        versions.make_live(session, projects.get(session, PROJECT, is_locked=True), 1)
    statements: list[str] = []
    event.listen(
        services.store.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    assert head_file(services) is not None and adapters(services), "both are considered"
    selected = " ".join(statements).replace("json_array_length(project_head.annotation_ids)", "")
    selected = selected.replace("json_array_length(model_version.trained_on)", "")
    assert "project_head.folder" in selected and "model_version.adapters" in selected
    assert "annotation_ids" not in selected and "trained_on" not in selected


def test_heads_of_then_do_not_answer_under_another_label_config(services: Services) -> None:
    fit(services, *REMAINING)
    of_then = head_file(services)
    promote_by_run(services, 1)
    fit(services, submitted(11, "blue"))
    promote_by_run(services, 2)
    config = str(project(services).label_config)
    projects.upsert(services.store, PROJECT, label_config=config.replace("<View>", "<View><!-- new -->"))
    make_live(services, 1)
    assert head_file(services) is None and is_due(services)
    fit(services)
    assert head_file(services) == of_then, "fitted again on what it knew"


def _deleted(annotation_id: int) -> dict[str, Any]:
    return {"annotations": [{"id": annotation_id}], "project": submitted(1, "red")["project"]}
