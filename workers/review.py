"""Writes predictions to Label Studio for review, with a tab for a random sample of them, and takes them back.

The sample is drawn from all that would be accepted, before anybody looks. Its predictions have a version's name of
their own, which the tab filters by.
"""

from collections.abc import Collection, Sequence
from functools import partial
from random import SystemRandom

from lorabel.curation.reviews import sample_size
from lorabel.database import acceptances, leases
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.tables import Acceptance, now
from lorabel.label_studio import tabs
from lorabel.label_studio.records import AnnotatedTask, NewPrediction
from workers.bulk_runs import ConnectedContext, is_transient, pause_s
from workers.retries import try_again


def draw_sample(acceptance: Acceptance, task_ids: Collection[int]) -> frozenset[int]:
    """The tasks for people to review; as many as prove the promise if no number was asked for."""
    if acceptance.review_size is None:
        return frozenset()
    size = acceptance.review_size or sample_size(len(task_ids), acceptance.precision, acceptance.confidence)
    return frozenset(SystemRandom().sample(sorted(task_ids), min(size, len(task_ids))))


def name_of(acceptance: Acceptance, *, is_sampled: bool) -> str:
    """The version that predictions are written under: `p1.v3.h7 (review 5)`.

    The parenthesis keeps the tab of review 5 from the predictions of review 50.
    """
    return f"{acceptance.version} ({'review' if is_sampled else 'acceptance'} {acceptance.id})"


def show(context: ConnectedContext, acceptance: Acceptance) -> int:
    """Write the predictions that are not written yet, then open the tab. Returns how many are in Label Studio."""
    with context.services.store.read() as session:
        planned = acceptances.tasks_in(session, acceptance.id, AcceptedState.PLANNED)
    size = context.services.settings.bulk_page
    for start in range(0, len(planned), size):
        _try(context, partial(_show_page, context, acceptance, planned[start : start + size]))
    with context.services.store.read() as session:
        shown = acceptances.tasks_in(session, acceptance.id, AcceptedState.SHOWN)
    if shown and acceptance.tab_id is None:
        _try(context, partial(_open_tab, context, acceptance))
    return len(shown)


def _show_page(context: ConnectedContext, acceptance: Acceptance, rows: Sequence[AcceptedTask]) -> int:
    tasks = _tasks_of(context, rows)
    states: dict[int, AcceptedState] = {}
    new: list[NewPrediction] = []
    for row in rows:
        task, name = tasks.get(row.task_id), name_of(acceptance, is_sampled=row.is_sampled)
        if task is None:
            states[row.task_id] = AcceptedState.GONE
        elif task.annotations:
            states[row.task_id] = AcceptedState.ANNOTATED
        else:
            states[row.task_id] = AcceptedState.SHOWN
            if name not in task.prediction_ids:  # else the answer to an earlier request was lost
                new.append(NewPrediction(row.task_id, row.result, row.score or 0.0, name))
    if new:
        with context.pace.request():
            context.client.add_predictions(context.project.label_studio_id, new)
    _keep(context, rows, states)
    return len(new)


def _open_tab(context: ConnectedContext, acceptance: Acceptance) -> int:
    title, name = f"Review {acceptance.id}", name_of(acceptance, is_sampled=True)
    with context.pace.request():
        tab_id = tabs.open_tab(context.client, context.project.label_studio_id, title, name)
    with context.services.store.write() as session:
        leases.update_claimed(session, context.run, heartbeat_at=now())
        acceptances.get(session, acceptance.project_id, acceptance.id).tab_id = tab_id
    return tab_id


def take_back(context: ConnectedContext, acceptance: Acceptance) -> int:
    """Delete the predictions and the tab. What people have annotated stays. Returns how many tasks had them."""
    with context.services.store.read() as session:
        rows = acceptances.tasks_in(session, acceptance.id, AcceptedState.PLANNED, AcceptedState.SHOWN)
    leases.report(context.services.store, context.run, total=len(rows))
    size, removed = context.services.settings.bulk_page, 0
    for start in range(0, len(rows), size):
        removed += _try(context, partial(_clear_page, context, acceptance, rows[start : start + size]))
        leases.report(context.services.store, context.run, done=removed)
    if (tab_id := acceptance.tab_id) is not None:
        _try(context, partial(_close_tab, context, tab_id, name_of(acceptance, is_sampled=True)))
    return removed


def _clear_page(context: ConnectedContext, acceptance: Acceptance, rows: Sequence[AcceptedTask]) -> int:
    tasks = _tasks_of(context, rows)
    for row in rows:
        task = tasks.get(row.task_id)
        name = name_of(acceptance, is_sampled=row.is_sampled)
        for prediction_id in () if task is None else task.prediction_ids.get(name, ()):
            with context.pace.request():
                context.client.delete_prediction(prediction_id)
    _keep(context, rows, {row.task_id: AcceptedState.REMOVED for row in rows})
    return len(rows)


def _close_tab(context: ConnectedContext, tab_id: int, name: str) -> int:
    with context.pace.request():
        tabs.close_tab(context.client, tab_id, name)
    return tab_id


def _tasks_of(context: ConnectedContext, rows: Sequence[AcceptedTask]) -> dict[int, AnnotatedTask]:
    leases.report(context.services.store, context.run)
    with context.pace.request():
        tasks = context.client.tasks_of(context.project.label_studio_id, [row.task_id for row in rows])
    return {task.task_id: task for task in tasks}


def _keep(context: ConnectedContext, rows: Sequence[AcceptedTask], states: dict[int, AcceptedState]) -> None:
    with context.services.store.write() as session:
        leases.update_claimed(session, context.run, heartbeat_at=now())
        for row in rows:
            stored = session.get(AcceptedTask, (row.acceptance_id, row.task_id))
            if stored is not None:  # else the task was forgotten meanwhile
                stored.state = states[row.task_id]


def _try(context: ConnectedContext, attempt: "partial[int]") -> int:
    return try_again(attempt, f"a step of bulk run {context.run.id}", is_transient, pause_s)
