import pytest

from lorabel.commands.doctor import examine
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, VersionState
from lorabel.settings import Settings


@pytest.fixture
def lonely(settings: Settings) -> Settings:
    """Nothing of Lorabel runs."""
    nobody = {"port": 1, "model_server_url": "http://127.0.0.1:1", "redis_url": "redis://127.0.0.1:1"}
    return settings.model_copy(update=nobody)


def test_nothing_runs_and_every_finding_has_a_remedy(lonely: Settings) -> None:
    never = lonely.model_copy(update={"data_dir": lonely.data_dir / "nowhere"})
    wrong = {check.name: check for check in examine(never) if not check.is_ok}
    assert {"database", "redis", "backend", "model server", "weights"} <= wrong.keys()
    assert all(check.found and check.remedy for check in wrong.values())


def test_an_empty_database_asks_for_a_project(lonely: Settings, store: Store) -> None:
    last = examine(lonely)[-1]
    assert (last.name, last.is_ok) == ("projects", False)
    assert "lorabel connect" in last.remedy


def test_a_label_studio_that_is_down_is_found_and_nothing_behind_it_is_asked(
    lonely: Settings, store: Store
) -> None:
    projects.remember(store, 7, label_studio_url="http://127.0.0.1:1", api_key="x" * 40)
    last = examine(lonely, project_id=7)[-1]
    assert last.name == "project 7: Label Studio"
    assert "cannot be reached" in last.found


def test_a_live_adapter_without_folder_is_found(lonely: Settings, store: Store) -> None:
    projects.remember(store, 7, live_number=1)
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
    found = {check.name: check for check in examine(lonely)}["adapters"]
    assert not found.is_ok
    assert "p7.v1/label" in found.found
    assert "rollback" in found.remedy


def test_passwords_in_addresses_are_not_shown(lonely: Settings) -> None:
    secret = lonely.model_copy(update={"redis_url": "redis://user:hidden-word@127.0.0.1:1/0"})
    assert not any("hidden-word" in check.found for check in examine(secret))
