"""What `connect` says of a Label Studio behind a proxy, with a fake of Label Studio on a real socket.

The label config is not served, so that `connect` stops before it changes anything. tests/e2e/test_connect.py
connects the real one.
"""

from collections.abc import Iterator

import pytest

from lorabel.commands.connect import Outcome, connect
from lorabel.database.project_keys import LabelStudioId
from lorabel.settings import Settings
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve

UNSERVED = '<View><Text name="text" value="$text"/><TextArea name="summary" toName="text"/></View>'


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    fake.settings = {"label_config": UNSERVED, "title": "Pets", "model_version": ""}
    with serve(fake):
        yield fake


def first_finding(fake: FakeLabelStudio, settings: Settings) -> str:
    first, last = connect(settings, fake.url, PERSONAL_TOKEN, LabelStudioId(1)).steps
    assert (first.outcome, last.outcome) == (Outcome.UNCHANGED, Outcome.FAILED)
    return first.finding


def test_the_server_and_the_user_are_named(fake: FakeLabelStudio, settings: Settings) -> None:
    assert first_finding(fake, settings) == f"1.23.2 at {fake.url} as annotator@example.com"


def test_an_odd_date_of_a_proxy_is_said_and_does_not_stop_it(fake: FakeLabelStudio, settings: Settings) -> None:
    fake.date = "yesterday"
    unread = "the Date header of its answer, 'yesterday', is no time"
    assert first_finding(fake, settings).endswith(f"; its clock cannot be compared with ours, since {unread}")
