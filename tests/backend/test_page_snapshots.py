import threading

from backend.pages.snapshots import Snapshot


def test_a_value_is_found_once_while_it_is_young() -> None:
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        return len(calls)

    snapshot = Snapshot(load, 60.0, "test")
    first = snapshot.get(wait_s=10)
    assert first is not None and first.value == 1
    assert snapshot.get() is first


def test_nobody_waits_longer_than_asked_and_an_old_value_stays_while_a_new_one_is_found() -> None:
    may_end = threading.Semaphore(0)
    values = iter([1, 2])

    def load() -> int:
        assert may_end.acquire(timeout=10)
        return next(values)

    snapshot = Snapshot(load, 0.0, "test")
    assert snapshot.get() is None and snapshot.is_loading
    may_end.release()
    first = snapshot.get(wait_s=10)
    assert first is not None and first.value == 1
    snapshot.renew()
    assert snapshot.get() is first
    may_end.release()
    while snapshot.is_loading:
        threading.Event().wait(0.001)
    newest = snapshot.get()
    assert newest is not None and newest.value == 2
    may_end.release()


def test_a_value_that_cannot_be_found_leaves_the_old_one() -> None:
    outcomes = iter([1, ValueError("broken")])

    def load() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    snapshot = Snapshot(load, 60.0, "test")
    first = snapshot.get(wait_s=10)
    snapshot.renew()
    while snapshot.is_loading:
        threading.Event().wait(0.001)
    assert snapshot.get() is first
