import pytest

from lorabel.commands.doctor import examine
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, VersionState
from lorabel.settings import Settings


@pytest.fixture
def settings_without_processes(settings: Settings) -> Settings:
    """Settings whose addresses nobody listens at: no process of Lorabel runs."""
    addresses = {"port": 1, "model_server_url": "http://127.0.0.1:1", "redis_url": "redis://127.0.0.1:1"}
    return settings.model_copy(update=addresses)


def test_every_fault_has_a_remedy_when_nothing_runs(settings_without_processes: Settings) -> None:
    missing_folder = settings_without_processes.data_dir / "nowhere"
    settings = settings_without_processes.model_copy(update={"data_dir": missing_folder, "database_url": None})
    failed_checks = {check.name: check for check in examine(settings) if not check.is_ok}
    assert {"database", "redis", "backend", "model server", "weights"} <= failed_checks.keys()
    assert all(check.finding and check.remedy for check in failed_checks.values())


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
