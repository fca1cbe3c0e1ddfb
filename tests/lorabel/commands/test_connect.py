"""What `connect` says, with a fake of Label Studio on a real socket.

tests/e2e/test_connect.py connects the real one.
"""

from collections.abc import Iterator

import pytest

from lorabel.commands.connect import Outcome, connect
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import UnreadableTask
from lorabel.errors import LabelStudioError
from lorabel.settings import Settings
from tests.lorabel.commands.conftest import CommandResult, RunLorabel
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve

BACKEND = "http://127.0.0.1:9090"
SERVED = (
    '<View><Text name="text" value="$text"/>'
    '<Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices></View>'
)
UNSERVED = '<View><Text name="text" value="$text"/><DateTime name="summary" toName="text"/></View>'


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    fake.settings = {"label_config": UNSERVED, "title": "Pets", "model_version": ""}
    with serve(fake):
        yield fake


@pytest.fixture
def connectable(fake: FakeLabelStudio) -> FakeLabelStudio:
    """The project can be connected, and its backend is registered."""
    fake.settings["label_config"] = SERVED
    fake.backends = [{"id": 1, "url": BACKEND, "title": "Lorabel", "state": "CO"}]
    return fake


def run_connect(lorabel: RunLorabel, fake: FakeLabelStudio) -> CommandResult:
    return lorabel(
        "connect", "--label-studio-url", f"{fake.url}/", "--project", "1", LABEL_STUDIO_API_KEY=PERSONAL_TOKEN
    )


def first_finding(fake: FakeLabelStudio, settings: Settings) -> str:
    first, last = connect(settings, fake.url, PERSONAL_TOKEN, LabelStudioId(1)).steps
    assert (first.outcome, last.outcome) == (Outcome.OK, Outcome.FAILED)
    return first.finding


def test_the_server_and_the_user_are_named(fake: FakeLabelStudio, settings: Settings) -> None:
    assert first_finding(fake, settings) == f"1.23.2 at {fake.url} as annotator@example.com"


def test_an_odd_date_of_a_proxy_is_said_and_does_not_stop_it(fake: FakeLabelStudio, settings: Settings) -> None:
    fake.date = "yesterday"
    unread = "the Date header of its answer, 'yesterday', is no time"
    assert first_finding(fake, settings).endswith(f"; its clock cannot be compared with ours, since {unread}")


def test_the_end_of_a_successful_connect_leads_to_the_tasks(
    lorabel: RunLorabel, connectable: FakeLabelStudio
) -> None:
    tasks = f"label its tasks at {connectable.url}/projects/1/data"
    first, second = (run_connect(lorabel, connectable) for _ in range(2))
    assert (first.exit_status, second.exit_status) == (0, 0), first.output + first.errors + second.output
    assert first.output.splitlines()[-1] == f"connected; {tasks}"
    assert second.output.splitlines()[-1] == f"connected already, nothing was changed; {tasks}"


def test_a_label_studio_that_is_too_old_is_refused_by_its_version(
    connectable: FakeLabelStudio, settings: Settings
) -> None:
    connectable.version = {"release": "1.17.9.post1"}
    with pytest.raises(LabelStudioError, match=r"is version 1.17.9.post1, expected 1.18 or newer: update"):
        connect(settings, connectable.url, PERSONAL_TOKEN, LabelStudioId(1))
    for release in ("1.18.0", "2.30.0-1", "develop"):
        connectable.version = {"release": release}
        assert connect(settings, connectable.url, PERSONAL_TOKEN, LabelStudioId(1)).is_complete


def test_a_user_who_may_not_change_the_project_is_not_told_to_start_the_backend(
    connectable: FakeLabelStudio, settings: Settings
) -> None:
    connectable.backends = []
    connectable.backend_fault = "You do not have permission to perform this action."
    with pytest.raises(LabelStudioError, match="may not change this project: take a token of somebody") as refusal:
        connect(settings, connectable.url, PERSONAL_TOKEN, LabelStudioId(1))
    assert "lorabel up" not in str(refusal.value)
    connectable.backend_fault = "URL resolves to a reserved network address"
    with pytest.raises(LabelStudioError, match="refuses backends at private addresses"):
        connect(settings, connectable.url, PERSONAL_TOKEN, LabelStudioId(1))


def test_steps_that_only_check_something_are_ok(lorabel: RunLorabel, connectable: FakeLabelStudio) -> None:
    """Neither Label Studio nor the proof is `unchanged`: `connect` cannot change them."""
    for outcome in ("changed", "unchanged"):
        lines = run_connect(lorabel, connectable).output.splitlines()[:-1]
        outcomes = {name.split(":")[0]: word for word, name in (line.split(maxsplit=1) for line in lines)}
        checks = {name: outcomes.pop(name) for name in ("Label Studio", "label config", "proof")}
        assert checks == dict.fromkeys(checks, "ok")
        assert outcomes.pop("backend") == "unchanged"
        assert outcomes == dict.fromkeys(("access", "webhook", "pre-annotations"), outcome)


def test_a_connect_that_fails_half_way_says_that_the_changes_stay(
    lorabel: RunLorabel, connectable: FakeLabelStudio
) -> None:
    connectable.webhook_fault = "URL resolves to a reserved network address"
    result = run_connect(lorabel, connectable)
    assert result.exit_status == 1
    assert "changed access: " in result.output and "failed webhook: " in result.output
    assert result.output.splitlines()[-1] == "not connected: see the failed step; the changes above stay"


def test_a_backend_that_label_studio_cannot_reach_is_told_without_its_codes(
    lorabel: RunLorabel, connectable: FakeLabelStudio
) -> None:
    """`lorabel up` does not run."""
    connectable.backends[0]["state"] = "DI"
    result = run_connect(lorabel, connectable)
    assert result.exit_status == 1
    plain = " ".join(result.output.split())
    assert f"Label Studio cannot reach the backend at {BACKEND}; is `lorabel up` running" in plain
    assert "DI" not in plain and "no reason" not in plain
    connectable.backends[0] |= {"state": "ER", "error_message": "no such model"}
    assert "(state ER: no such model)" in " ".join(run_connect(lorabel, connectable).output.split())


def test_a_base_model_that_cannot_be_loaded_is_not_blamed_on_the_task(
    lorabel: RunLorabel, connectable: FakeLabelStudio, store: Store
) -> None:
    connectable.tasks = [{"id": 135, "data": {"text": "a"}, "annotations": [], "predictions": []}]
    for finding, reason in (
        ("no task can be predicted without its base model", "MODEL_TEXT_ENCODER='a/b' cannot be loaded: no hub"),
        ("task 135 cannot be read", "its text is empty"),
    ):
        with store.write() as session:
            session.merge(UnreadableTask(project_id=1, task_id=135, reason=reason, is_permanent=False))
        result = run_connect(lorabel, connectable)
        assert f"failed proof: {finding}: {reason}" in " ".join(result.output.split())
