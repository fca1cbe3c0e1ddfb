"""`lorabel search` and `lorabel index`: search for tasks from a terminal."""

from contextlib import closing
from dataclasses import asdict

from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.commands.progress import FAILURES_SHOWN
from lorabel.database import projects
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.search.searcher import Searcher, task_links


def search(project_id: int, text: str, task_id: int | None, *, limit: int, is_json: bool) -> None:
    """Print the tasks that are most similar to a text or to another task.

    Args:
        text: not read if `task_id` is a number.
        limit: most tasks in the table.
    """
    with open_context(is_json=is_json) as context, closing(ModelClient(context.settings)) as model_client:
        searcher = Searcher(context.settings, context.store, model_client, Authorizations())
        if task_id is None:
            answer = searcher.by_text(project_id, text, limit)
        else:
            answer = searcher.like_task(project_id, task_id, limit)
        with context.store.read() as session:
            project = projects.get(session, project_id)
        links = task_links(project, context.settings, answer.hits)
        hits = list(zip(answer.hits, links, strict=True))
        if is_json:
            records = [asdict(hit) | {"url": link} for hit, link in hits]
            print_json({"hits": records, "indexed": answer.indexed, "missing": answer.missing})
            return
        print_heading(context, project)
        rows = [(str(hit.task_id), f"{hit.similarity:.3f}", link or "") for hit, link in hits]
        context.console.print(new_table(("task", "similarity", "in Label Studio"), rows, ("in Label Studio",)))
        context.console.print(f"out of {answer.indexed} tasks of project {project_id}")
        if answer.missing:
            context.console.print(
                f"{answer.missing} more are not embedded yet, or cannot be: `lorabel index {project_id}`"
            )


def index(project_id: int) -> None:
    """Embed all tasks of a project, and print those that cannot be embedded."""
    with open_context() as context, closing(ModelClient(context.settings)) as model_client:
        searcher = Searcher(context.settings, context.store, model_client, Authorizations())
        outcome = searcher.index(project_id)
        context.console.print(
            f"{outcome.embedded} tasks were embedded, {outcome.total} of project {project_id} are"
        )
        for task_id, reason in list(outcome.unreadable.items())[:FAILURES_SHOWN]:
            context.console.print(f"task {task_id} cannot be: {reason}", highlight=False, markup=False)
        if len(outcome.unreadable) > FAILURES_SHOWN:
            context.console.print(f"and {len(outcome.unreadable) - FAILURES_SHOWN} more")
