"""How often PostgreSQL is asked for what every request needs, and connections that it has closed meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

import psycopg
import pytest
from sqlalchemy import bindparam, insert, select

from lorabel.database import kept_connections, projects
from lorabel.database.plain_query import PlainQuery
from lorabel.database.store import Store
from lorabel.database.tables import Event, EventState, Project
from tests.lorabel.database.relay import Relay
from tests.servers import MissingServerError, PostgresServer, postgres_server
from tests.skipped import skip_or_fail

pytestmark = pytest.mark.slow

COLUMNS = Project.__table__.c
BY_ID = select(COLUMNS.id).where(COLUMNS.id == bindparam("project_id"))
# A driver prepares a query that it has sent five times, which takes a round trip of its own.
TIMES = 10
AT_ONCE = 8
# On a machine with much other work eight new connections have taken over ten seconds.
WAIT_S = 60.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as server:
            store = Store(server.url())
            store.migrate()
            projects.upsert(store, 1, label_config="<View/>")
            store.close()
            yield server
    except MissingServerError as error:
        skip_or_fail(str(error))


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    with Relay(postgres.port).running() as relay:
        yield relay


@pytest.fixture
def store(postgres: PostgresServer, relay: Relay) -> Iterator[Store]:
    store = Store(postgres.url().replace(str(postgres.port), str(relay.port)))
    yield store
    store.close()


def plain(store: Store) -> None:
    query = PlainQuery(store.engine, BY_ID)
    assert query.rows(project_id=1) == [(1,)]


def look_up(store: Store) -> None:
    with store.look_up() as session:
        assert session.get_one(Project, 1).label_config == "<View/>"


def read(store: Store) -> None:
    with store.read() as session:
        assert session.get_one(Project, 1).label_config == "<View/>"


def write_one_statement(store: Store) -> None:
    rows = [{"action": "x", "payload": "{}", "state": EventState.IGNORED} for _ in range(3)]
    with store.write_one_statement() as session:
        ids = session.scalars(insert(Event).returning(Event.id, sort_by_parameter_order=True), rows).all()
    with store.read() as session:
        assert session.get_one(Event, ids[-1]).action == "x"


@pytest.mark.parametrize(
    ("use", "expected"),
    [(plain, 1), (look_up, 1), (read, 3), (write_one_statement, 1 + 3)],
    ids=["plain", "look up", "read: begin, select, rollback", "write, and read"],
)
def test_a_query_takes_one_round_trip(
    store: Store, relay: Relay, use: Callable[[Store], None], expected: int
) -> None:
    for _ in range(TIMES):
        use(store)
    before = relay.round_trips
    for _ in range(TIMES):
        use(store)
    assert (relay.round_trips - before) / TIMES == expected


def test_a_connection_that_was_idle_for_long_is_asked_first(
    store: Store, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(TIMES):
        look_up(store)
    monkeypatch.setattr(kept_connections, "PING_AFTER_S", 0.0)
    before = relay.round_trips
    look_up(store)
    assert relay.round_trips - before == 2


def use_all_connections(store: Store, use: Callable[[Store], None]) -> None:
    """So that each of several threads has a connection of its own."""
    barrier = Barrier(AT_ONCE)

    def use_after_others() -> None:
        with store.look_up() as session:
            session.get(Project, 1)
            barrier.wait(WAIT_S)
        use(store)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        used = [threads.submit(use_after_others) for _ in range(AT_ONCE)]
    errors = [error for each in used if (error := each.exception()) is not None]
    # The others have waited in vain for whoever failed.
    assert not [error for error in errors if not isinstance(error, BrokenBarrierError)]
    assert not errors


@pytest.mark.parametrize("use", [plain, look_up, read, write_one_statement])
def test_no_query_fails_after_the_server_was_restarted(
    store: Store, postgres: PostgresServer, use: Callable[[Store], None]
) -> None:
    use_all_connections(store, use)
    postgres.process.stop()
    postgres.process.start()
    use_all_connections(store, use)


def test_no_query_fails_after_somebody_has_ended_the_connections(store: Store, postgres: PostgresServer) -> None:
    use_all_connections(store, read)
    with psycopg.connect(postgres.url(), autocommit=True) as operator:
        ended = operator.execute(
            # It waits until they are closed: a query that is under way is cut off, whatever is checked before it.
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchall()
    assert len(ended) >= AT_ONCE
    use_all_connections(store, read)


def test_what_follows_a_plain_query_on_its_connection_is_a_transaction_again(store: Store) -> None:
    plain(store)
    with pytest.raises(RuntimeError, match="in the middle"), store.write() as session:
        session.get_one(Project, 1).label_config = "<View>changed</View>"
        session.flush()
        raise RuntimeError("in the middle")
    look_up(store)


def test_changes_in_a_look_up_are_discarded(store: Store) -> None:
    with store.look_up() as session:
        session.get_one(Project, 1).label_config = "<View>changed</View>"
        session.scalars(select(Project.id)).all()  # for which other sessions write what was changed
    look_up(store)


def test_claims_of_others_are_seen_by_their_namespace(store: Store, postgres: PostgresServer) -> None:
    other = Store(postgres.url())
    assert store.claimed(7, -8) == frozenset()
    with other.claim(7, 3), other.claim(-8, 2_000_000_000), other.claim(9, 4):
        assert store.claimed(7, -8) == {3, 2_000_000_000} and store.claimed(9) == {4}
        assert store.claimed(10) == frozenset()
    assert store.claimed(7, -8, 9) == frozenset()
    other.close()
