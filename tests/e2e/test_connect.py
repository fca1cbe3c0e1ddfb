"""`lorabel connect` and `lorabel doctor` against the real Label Studio 1.23.2."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from lorabel.commands.checks import Check
from lorabel.commands.connect import Connection, Outcome, basic_auth_header, connect
from lorabel.commands.doctor import examine
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.demo.project import create_project
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_titles import project_titles
from lorabel.settings import Settings
from tests.e2e.label_studio_server import Server, kill_group
from tests.e2e.lorabel_processes import Lorabel

pytestmark = pytest.mark.e2e


def test_connecting_a_second_time_changes_nothing(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 2)
    first = connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
    assert first.is_complete, first.steps
    assert first.is_changed
    assert "webhook" in [step.name for step in first.steps if step.outcome is Outcome.CHANGED]
    second = connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
    assert second.is_complete, second.steps
    assert not second.is_changed, second.steps
    (backend,) = client.backends(project_id)
    (webhook,) = client.webhooks(project_id)
    assert backend.state == "CO"
    assert webhook.is_right(basic_auth_header(guarded_lorabel.settings))
    assert client.project(project_id).model_version == backend.title
    assert f"p{project_id}.v0" in _step(second, "proof")


def test_the_title_of_a_project_is_the_one_that_it_has_in_label_studio_now(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_ids = [create_project(client, 1) for _ in range(2)]
    for project_id in project_ids:
        connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
        client.update_project(project_id, title=f"Shapes [{project_id}]")
    with closing(Store.open(guarded_lorabel.settings)) as store, store.read() as session:
        rows = [projects.get(session, project_id) for project_id in project_ids]
    titles = project_titles(rows, guarded_lorabel.settings)
    assert titles == {project_id: f"Shapes [{project_id}]" for project_id in project_ids}


def test_settings_that_were_switched_off_by_hand_are_switched_on_again(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
    (webhook,) = client.webhooks(project_id)
    client.call("PATCH", f"/api/webhooks/{webhook.id}/", json={"url": webhook.url, "is_active": False})
    client.update_project(project_id, show_collab_predictions=False)
    failed_checks = {check.name.split(": ")[-1]: check for check in _failed_checks(guarded_lorabel, project_id)}
    assert failed_checks.keys() == {"connection", "webhook"}
    assert all("lorabel connect" in check.remedy for check in failed_checks.values())
    second = connect(guarded_lorabel.settings, label_studio.url, label_studio.token, project_id)
    changed = {step.name for step in second.steps if step.outcome is Outcome.CHANGED}
    assert changed == {"webhook", "pre-annotations"}
    assert _failed_checks(guarded_lorabel, project_id) == []


def test_a_legacy_token_connects_only_while_legacy_tokens_are_allowed(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    legacy = label_studio.allow_legacy_tokens()
    connection = connect(guarded_lorabel.settings, label_studio.url, legacy, project_id)
    assert connection.is_complete, connection.steps
    label_studio.forbid_legacy_tokens()
    with pytest.raises(LabelStudioError, match="legacy token authentication has been disabled"):
        connect(guarded_lorabel.settings, label_studio.url, legacy, project_id)


def test_the_error_for_a_missing_project_names_it(label_studio: Server, guarded_lorabel: Lorabel) -> None:
    with pytest.raises(LabelStudioError, match="no project 4711"):
        connect(guarded_lorabel.settings, label_studio.url, label_studio.token, 4711)


def test_the_error_for_an_unreachable_backend_names_its_url(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    settings = guarded_lorabel.settings
    with pytest.raises(LabelStudioError, match=r"must reach the backend at http://127.0.0.1:1[^0-9]"):
        connect(settings, label_studio.url, label_studio.token, project_id, backend_url="http://127.0.0.1:1")


@pytest.mark.long  # three starts of Label Studio
def test_errors_name_the_ssrf_settings_and_a_later_connect_completes_the_connection(
    start_label_studio: Callable[..., Server], guarded_lorabel: Lorabel, tmp_path: Path
) -> None:
    data, settings = tmp_path / "data", guarded_lorabel.settings
    protected = start_label_studio({}, data)
    with protected.client() as client:
        project_id = create_project(client, 1)
        with pytest.raises(LabelStudioError, match="ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"):
            connect(settings, protected.url, protected.token, project_id)
        assert client.backends(project_id) == []

    kill_group(protected.process)
    half_open = start_label_studio({"ML_BLOCK_LOCAL_IP": "false"}, data, protected.port)
    with half_open.client() as client:
        for _ in range(2):
            connection = connect(settings, half_open.url, half_open.token, project_id)
            assert [step.name for step in connection.steps if step.outcome is Outcome.FAILED] == ["webhook"]
            assert "SSRF_PROTECTION_ENABLED=false" in _step(connection, "webhook")
            assert len(client.backends(project_id)) == 1
            assert client.project(project_id).model_version == "Lorabel"

    kill_group(half_open.process)
    opened = start_label_studio(PRIVATE_ADDRESSES, data, protected.port)
    with opened.client() as client:
        completed = connect(settings, opened.url, opened.token, project_id)
        assert completed.is_complete, completed.steps
        assert len(client.webhooks(project_id)) == 1
        assert not connect(settings, opened.url, opened.token, project_id).is_changed


UNSERVED = (
    '<View><Text name="text" value="$text"/><DateTime name="answer" toName="text"/></View>',
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text" perItem="true">'
    '<Choice value="good"/><Choice value="bad"/></Choices></View>',
)


@pytest.mark.parametrize("label_config", UNSERVED)
def test_a_project_of_which_nothing_is_served_is_left_alone_unless_anyway(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, label_config: str
) -> None:
    project_id = create_project(client, 1)
    client.update_project(project_id, label_config=label_config)
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"text": "Not again!"}])
    before = client.project(project_id)
    settings = guarded_lorabel.settings
    connection = connect(settings, label_studio.url, label_studio.token, project_id)
    failed = [step for step in connection.steps if step.outcome is Outcome.FAILED]
    assert [step.name for step in failed] == ["label config"]
    assert "--anyway" in failed[0].finding
    assert (client.backends(project_id), client.webhooks(project_id)) == ([], [])
    assert client.project(project_id) == before
    assert _stored(settings, project_id) == []
    anyway = connect(settings, label_studio.url, label_studio.token, project_id, is_anyway=True)
    assert anyway.is_complete, anyway.steps
    assert len(client.backends(project_id)) == len(client.webhooks(project_id)) == 1
    assert "no control tag that we serve" in _step(anyway, "proof")


def test_a_failed_connect_leaves_the_stored_access_of_a_project_as_it_was(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio
) -> None:
    project_id = create_project(client, 1)
    settings = guarded_lorabel.settings
    connect(settings, label_studio.url, label_studio.token, project_id)
    (before,) = _stored(settings, project_id)
    legacy = label_studio.allow_legacy_tokens()
    with pytest.raises(LabelStudioError, match="must reach the backend"):
        connect(settings, label_studio.url, legacy, project_id, backend_url="http://127.0.0.1:1")
    label_studio.forbid_legacy_tokens()
    assert _stored(settings, project_id) == [before]
    # Another address of the same backend, which is not the project's first one.
    second_url = guarded_lorabel.url.replace("127.0.0.1", "localhost")
    second = connect(settings, label_studio.url, label_studio.token, project_id, backend_url=second_url)
    assert [step.name for step in second.steps if step.outcome is Outcome.FAILED] == ["backend"]
    assert _stored(settings, project_id) == [before]


SILENT = {
    "stars": '<Image name="image" value="$image"/><Rating name="stars" toName="image"/>',
    "nicer": '<Image name="image" value="$image"/><Image name="other" value="$image"/>'
    '<Pairwise name="nicer" toName="image,other"/>',
}


@pytest.mark.parametrize("name", SILENT)
def test_an_answer_that_is_silent_until_taught_is_right_and_an_unreadable_task_is_not(
    label_studio: Server, guarded_lorabel: Lorabel, client: LabelStudio, name: str
) -> None:
    settings = guarded_lorabel.settings
    project_id = create_project(client, 1)
    client.update_project(project_id, label_config=f"<View>{SILENT[name]}</View>")
    silent = connect(settings, label_studio.url, label_studio.token, project_id)
    assert silent.is_complete, silent.steps
    for part in (
        "was read",
        f"{name} (",
        "until it was taught",
        "first few annotations",
    ):
        assert part in _step(silent, "proof")
    task = client.first_task(project_id)
    assert task is not None
    client.call("PATCH", f"/api/tasks/{task.task_id}/", json={"data": {"image": "data:image/png;base64,AAAA"}})
    broken = connect(settings, label_studio.url, label_studio.token, project_id)
    assert [step.name for step in broken.steps if step.outcome is Outcome.FAILED] == ["proof"]
    assert f"task {task.task_id} cannot be read: " in _step(broken, "proof")


def _stored(settings: Settings, project_id: int) -> list[tuple[str | None, ...]]:
    """The access that the database has of a project with this id in Label Studio."""
    with closing(Store.open(settings)) as store, store.read() as session:
        rows = session.scalars(select(Project).where(Project.label_studio_id == project_id))
        return [(row.label_studio_url, row.api_key, row.backend_url) for row in rows]


def _step(connection: Connection, name: str) -> str:
    return next(step.finding for step in connection.steps if step.name == name)


def _failed_checks(lorabel: Lorabel, project_id: int) -> list[Check]:
    return [check for check in examine(lorabel.settings, project_id) if not check.is_ok]
