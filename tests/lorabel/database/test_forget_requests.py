"""Jobs that forget: each is done once, soon, and only with the project that was meant."""

from dataclasses import replace
from datetime import timedelta

import pytest

from lorabel.database import connecting_files, forget_requests, projects
from lorabel.database.forgotten_events import Subject
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ForbiddenFormError
from lorabel.settings import Settings


@pytest.fixture(autouse=True)
def project(store: Store) -> None:
    projects.upsert(store, 3)


def ask(store: Store) -> str:
    return forget_requests.ask(store, 3, Subject(annotator_id=4), is_retraining=True)


def test_a_request_is_done_once(settings: Settings, store: Store) -> None:
    sealed = ask(store)
    request = forget_requests.take(settings, store, sealed)
    assert (request.project_id, request.subject, request.is_retraining) == (3, Subject(annotator_id=4), True)
    with pytest.raises(ForbiddenFormError, match="done before"):
        forget_requests.take(settings, store, sealed)
    forget_requests.take(settings, store, ask(store))


def test_a_project_that_was_connected_anew_is_not_forgotten(settings: Settings, store: Store) -> None:
    sealed = ask(store)
    with store.write() as session:
        session.delete(session.get_one(Project, 3))
    of_files = ask(store)
    projects.upsert(store, 3)
    for argument in (sealed, of_files):
        with pytest.raises(ForbiddenFormError, match="connected anew"):
            forget_requests.take(settings, store, argument)


def test_a_request_is_done_within_a_day(settings: Settings, store: Store) -> None:
    request = forget_requests.unseal(store.keyring, ask(store))
    for age_h, is_done in ((23, True), (25, False)):
        old = replace(request, asked_at=request.asked_at - timedelta(hours=age_h))
        sealed = forget_requests.seal(store.keyring, old)
        if is_done:
            forget_requests.take(settings, store, sealed)
        else:
            with pytest.raises(ForbiddenFormError, match="too old"):
                forget_requests.take(settings, store, sealed)


def test_files_of_attempts_that_go_on_stay(settings: Settings) -> None:
    folder = connecting_files.folder_of(settings)
    folder.mkdir(parents=True)
    for name, is_ended in (("going", "false"), ("ended", "true")):
        (folder / name).write_text(f'{{"is_ended": {is_ended}}}')
        (folder / f"{name}.begun").touch()
    (folder / "going.12.34").touch()
    assert connecting_files.remove_ended(settings) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["going", "going.12.34", "going.begun"]
