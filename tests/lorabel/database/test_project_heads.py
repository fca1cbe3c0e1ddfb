"""Which projects need their heads fitted: the newest first, read in pieces, by an index."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from lorabel.database import project_heads
from lorabel.database.store import Store
from lorabel.database.tables import Project

AT = datetime(2026, 1, 1, tzinfo=UTC)
DUE = range(1, 101)


@pytest.fixture
def expected(store: Store) -> list[int]:
    """100 projects that are due, several of them changed at the same time, and 300 that are not."""
    not_due: tuple[dict[str, Any], ...] = (
        {"annotation_revision": 4, "head_revision": 4},
        {"is_deleted": True},
        {"label_config": None, "head_config": None},
    )
    defaults = {"annotation_revision": 1, "head_revision": 0, "label_config": "<View/>", "head_config": "<View/>"}
    defaults |= {"is_deleted": False}
    rows = [{"id": i, "updated_at": AT + timedelta(seconds=i * 7 % 30), **defaults} for i in DUE]
    for row in rows[:50]:
        row |= {"head_revision": 1, "head_config": None if row["id"] % 2 else "<View> </View>"}
    others = [
        {"id": 1000 + i, "updated_at": AT + timedelta(days=1), **defaults, **not_due[i % 3]} for i in range(300)
    ]
    with store.write() as session:
        session.execute(insert(Project), [row | {"label_studio_id": row["id"]} for row in rows + others])
    return [row["id"] for row in sorted(rows, key=lambda row: (row["updated_at"], row["id"]), reverse=True)]


def test_projects_that_are_due_come_in_the_order_of_their_last_change(store: Store, expected: list[int]) -> None:
    with store.look_up() as session:
        assert list(project_heads.due(session)) == expected


@pytest.mark.parametrize(("wanted", "pieces"), [(1, 1), (32, 1), (33, 2), (100, 4), (101, 4)])
def test_only_as_many_are_read_as_are_needed(store: Store, expected: list[int], wanted: int, pieces: int) -> None:
    read: list[int] = []

    @event.listens_for(store.engine, "after_cursor_execute")
    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement != "BEGIN":
            assert "LIMIT" in statement
            read.append(1)

    with store.look_up() as session:
        assert list(islice(project_heads.due(session), wanted)) == expected[:wanted]
    event.remove(store.engine, "after_cursor_execute", note)
    assert len(read) == pieces


def test_they_are_found_by_an_index_that_has_no_others(store: Store, expected: list[int]) -> None:
    plans: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM project" in statement:
            prefix = "EXPLAIN QUERY PLAN" if store.is_sqlite else "EXPLAIN"
            plans.append(str(cursor.execute(f"{prefix} {statement}", parameters).fetchall()))

    with store.read() as session:
        if not store.is_sqlite:  # these tables are so small that reading them is as good
            session.execute(text("SET LOCAL enable_seqscan = off"))
        assert len(list(project_heads.due(session))) == len(expected)
    event.remove(store.engine, "before_cursor_execute", explain)
    assert len(plans) == 4 and all("project_due" in plan for plan in plans), plans
