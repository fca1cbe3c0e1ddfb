from importlib.util import find_spec
from typing import Any

import pytest

from lorabel.commands.doctor import examine
from lorabel.database import projects, training_runs
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, RunState, UnreadableTask, VersionState
from lorabel.inference.messages import FamilyInfo
from lorabel.settings import Settings
from tests.backend.fake_model_server import FakeModelServer


@pytest.fixture
def settings_without_processes(settings: Settings) -> Settings:
    """Settings whose addresses nobody listens at: no process of Lorabel runs."""
    addresses = {"port": 1, "model_server_url": "http://127.0.0.1:1", "redis_url": "redis://127.0.0.1:1"}
    return settings.model_copy(update=addresses)


def test_every_fault_has_a_remedy_when_nothing_runs(settings_without_processes: Settings) -> None:
    missing_folder = settings_without_processes.data_dir / "nowhere"
    settings = settings_without_processes.model_copy(update={"data_dir": missing_folder, "database_url": None})
    failed_checks = {check.name: check for check in examine(settings) if not check.is_ok}
    assert {"database", "redis", "backend", "model server"} <= failed_checks.keys()
    assert all(check.finding and check.remedy for check in failed_checks.values())
    assert "http://127.0.0.1:1/health cannot be reached" in failed_checks["backend"].finding
    assert "http://127.0.0.1:1 cannot be reached" in failed_checks["model server"].finding


def test_the_weights_are_not_blamed_when_the_model_server_is_down(
    settings_without_processes: Settings, store: Store
) -> None:
    checks = examine(settings_without_processes)
    assert "model server" in [check.name for check in checks]
    assert not any("MODEL_" in check.remedy.replace("MODEL_SERVER_URL", "") for check in checks)


def test_the_doctor_names_the_missing_folder_for_which_up_did_not_start(
    settings_without_processes: Settings, store: Store
) -> None:
    missing = settings_without_processes.data_dir / "nowhere"
    models = {"dual_encoder": f"local-dir:{missing}"}
    checks = examine(settings_without_processes.model_copy(update={"models": models}))
    finding = {check.name: check for check in checks}["model server"].finding
    assert f"MODEL_DUAL_ENCODER='local-dir:{missing}' cannot be loaded: '{missing}' does not exist" in finding


def test_no_remedy_wants_the_token_where_other_users_can_read_it(
    settings_without_processes: Settings, store: Store
) -> None:
    (not_connected,) = examine(settings_without_processes, project_id=7)[-1:]
    projects.upsert(store, 7)
    (without_address,) = examine(settings_without_processes, project_id=7)[-1:]
    for check in (not_connected, without_address):
        assert "LABEL_STUDIO_API_KEY" in check.remedy and "--api-key" not in check.remedy


def test_a_base_model_that_a_connected_project_lacked_is_a_fault_until_it_is_loaded(
    settings_without_processes: Settings, store: Store, model_server: FakeModelServer
) -> None:
    settings = settings_without_processes.model_copy(update={"model_server_url": model_server.url})
    model_server.families = [family("dual_encoder")]
    projects.upsert(store, 7)
    reason = "MODEL_TEXT_ENCODER='hf-hub:a/b' cannot be loaded: no hub"
    with store.write() as session:
        for task_id, why in ((1, reason), (2, reason), (3, "its text is empty")):
            session.add(UnreadableTask(project_id=7, task_id=task_id, reason=why, is_permanent=False))
    weights = {check.name: check for check in examine(settings)}["weights"]
    assert (weights.is_ok, weights.finding, bool(weights.remedy)) == (False, reason, True)
    model_server.families.append(family("text_encoder"))
    assert {check.name: check for check in examine(settings)}["weights"].is_ok
    model_server.families.pop()
    projects.upsert(store, 7, is_deleted=True)
    assert {check.name: check for check in examine(settings)}["weights"].is_ok


def test_an_empty_database_asks_for_a_project(settings_without_processes: Settings, store: Store) -> None:
    last_check = examine(settings_without_processes)[-1]
    assert (last_check.name, last_check.is_ok) == ("projects", False)
    assert "lorabel connect" in last_check.remedy


def test_no_further_check_of_a_project_runs_when_label_studio_is_down(
    settings_without_processes: Settings, store: Store
) -> None:
    projects.upsert(store, 7, label_studio_url="http://127.0.0.1:1", api_key="x" * 40)
    last_check = examine(settings_without_processes, project_id=7)[-1]
    assert last_check.name == "project 7: Label Studio"
    assert "cannot be reached" in last_check.finding


def test_a_live_adapter_without_folder_is_found(settings_without_processes: Settings, store: Store) -> None:
    projects.upsert(store, 7, live_number=1)
    with store.write() as session:
        session.add(
            ModelVersion(
                project_id=7,
                number=1,
                parent=0,
                state=VersionState.LIVE,
                base_models={},
                adapters={"label": "p7.v1/label"},
                metrics={},
                trained_on=[],
            )
        )
    adapters = {check.name: check for check in examine(settings_without_processes)}["adapters"]
    assert not adapters.is_ok
    assert "p7.v1/label" in adapters.finding
    assert "rollback" in adapters.remedy


def test_passwords_in_addresses_are_not_shown(settings_without_processes: Settings) -> None:
    secret = {"redis_url": "redis://user:hidden-word@127.0.0.1:1/0"}
    checks = examine(settings_without_processes.model_copy(update=secret))
    assert not any("hidden-word" in check.finding for check in checks)


def family(name: str) -> FamilyInfo:
    return FamilyInfo(name=name, source="local-dir:model", parameters=1_800_000, lora_layers=8)


def end_run(store: Store, state: RunState, **columns: Any) -> None:
    run = training_runs.claim(store, training_runs.request(store, 7, "x").id)
    assert run is not None
    with store.write() as session:
        training_runs.finish(session, run, state, **columns)


def test_what_the_newest_training_run_skipped_is_shown_with_the_reasons(
    settings_without_processes: Settings, store: Store
) -> None:
    projects.upsert(store, 7, label_config="<View/>")
    settings = settings_without_processes
    assert examine(settings, project_id=7)[-1].name == "project 7: Label Studio", "there is no run yet"
    skipped = {"label": {str(number): "the file is broken" for number in range(1, 8)}}
    end_run(store, RunState.FINISHED, version_number=1, decision="accepted", metrics={"skipped": skipped})
    training = examine(settings, project_id=7)[-1]
    assert (training.name, training.is_ok) == ("project 7: training", True)
    assert (
        "run 1: accepted; 7 annotations skipped ('label' of annotation 1: the file is broken;" in training.finding
    )
    assert training.finding.endswith("; and 2 more)")
    end_run(store, RunState.FINISHED, decision="nothing to learn from", metrics={"skipped": skipped})
    without_version = examine(settings, project_id=7)[-1]
    assert (without_version.is_ok, "mend these annotations" in without_version.remedy) == (False, True)
    end_run(store, RunState.FAILED, error="no weights")
    failed = examine(settings, project_id=7)[-1]
    assert (failed.is_ok, failed.finding) == (False, "run 3 failed: no weights")
    assert failed.remedy


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_redaction_that_needs_presidio_says_what_to_install(
    settings_without_processes: Settings, store: Store
) -> None:
    settings = settings_without_processes.model_copy(update={"redact": "email,PERSON"})
    redaction = {check.name: check for check in examine(settings)}["redaction"]
    assert not redaction.is_ok
    assert "REDACT names PERSON, which needs Presidio; install lorabel[presidio]" in redaction.finding
    assert "pip install 'lorabel[presidio]'" in redaction.remedy
    assert "redaction" not in {check.name for check in examine(settings_without_processes)}
