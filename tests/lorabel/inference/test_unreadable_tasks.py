"""The rows of tasks that cannot be read."""

import pytest

from lorabel.database.store import Store
from lorabel.inference import unreadable_tasks
from lorabel.inference.requests import Unreadable
from tests.sqlite_limits import limit_parameters


def test_more_tasks_than_a_statement_has_parameters_can_become_readable_again(store: Store) -> None:
    if not store.is_sqlite:
        pytest.skip("the limit is one of SQLite")
    broken = Unreadable("broken file", is_permanent=True)
    unreadable_tasks.write(store, 1, dict.fromkeys(range(3000), broken), before=())
    limit_parameters(store, 999)
    reasons = dict.fromkeys(range(3000)) | {7: broken}
    unreadable_tasks.write(store, 1, reasons, before=range(3000))
    with store.read() as session:
        assert unreadable_tasks.known(session, 1) == {7}
