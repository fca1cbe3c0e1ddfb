"""`lorabel search` and `lorabel index`: search for tasks from a terminal."""

from contextlib import closing
from dataclasses import asdict

from lorabel.commands.bulk_runs import require_project_access, start
from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.database import bulk_runs, projects
from lorabel.database.tables import BulkRunKind
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


def index(project_id: int, *, is_detached: bool) -> None:
    """Queue a bulk run that embeds all tasks of a project, and show it until it has ended.

    Args:
        is_detached: return when the run is queued.

    Raises:
        Exit: as `lorabel.commands.bulk_runs.preannotate`.
    """
    with open_context() as context:
        require_project_access(context, project_id)
        run = bulk_runs.request(context.store, project_id, "lorabel index", kind=BulkRunKind.INDEX)
        start(context, run, is_detached=is_detached)
