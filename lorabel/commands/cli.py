"""`lorabel`: one command for people; what it does lies in the modules that it calls."""

import signal
import sys
import time
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lorabel import logs
from lorabel.commands import connect as connecting
from lorabel.commands import doctor as doctors
from lorabel.commands.progress import ACTIVE, FAILURES_SHOWN, follow, report
from lorabel.commands.supervisor import Supervisor
from lorabel.curation import label_errors
from lorabel.curation.sampling import Strategy
from lorabel.database import bulk_runs, projects, training_runs, versions
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import BulkRun, ModelVersion, Project, RunState, TrainingRun
from lorabel.errors import LorabelError
from lorabel.inference import promotion
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.authorizations import Authorizations
from lorabel.settings import Settings

UP_TIMEOUT_S = 1800.0
POLL_S = 0.5

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help="Label Studio's backend."
)
console = Console()
ProjectId = Annotated[int, typer.Argument(help="The project's id in Label Studio.")]


def main() -> None:
    """The entry point: our own errors are one line and exit status 1, never a traceback."""
    try:
        app()
    except LorabelError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except ValidationError as error:
        Console(stderr=True).print(f"[red]error:[/red] settings: {_wrong(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _wrong(error: ValidationError) -> str:
    """Without the values: among them are passwords."""
    found = [(".".join(map(str, one["loc"])).upper(), one["msg"]) for one in error.errors(include_input=False)]
    return "; ".join(f"{name}: {reason}" if name else reason for name, reason in found)


@app.command()
def up() -> None:
    """Start Redis, model server, backend and workers on this machine, until Ctrl-C."""
    settings = _settings()
    supervisor = Supervisor(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        supervisor.start()
        with console.status("starting") as status:
            supervisor.wait_until_ready(UP_TIMEOUT_S, lambda part: status.update(f"waiting for {part}"))
        console.print(f"backend at http://{settings.host}:{settings.port}, logs in {settings.data_dir / 'logs'}")
        console.print("ready")
        supervisor.run_forever()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        supervisor.stop()


@app.command()
def demo(
    headless: Annotated[bool, typer.Option(help="Let a scripted annotator work, and print a table.")] = False,
) -> None:
    """Start the real Label Studio with all of Lorabel and pictures to label, until Ctrl-C."""
    from lorabel.demo.run import run

    _settings()
    raise typer.Exit(run(is_headless=headless, console=console))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date; `up` does this by itself."""
    Store.open(_settings()).migrate()
    console.print("the schema is up to date")


@app.command()
def connect(
    label_studio_url: Annotated[str, typer.Option(help="Address of Label Studio.")],
    api_key: Annotated[str, typer.Option(help="Personal access token or legacy token.")],
    project: Annotated[int, typer.Option(help="The project's id.")],
    backend_url: Annotated[str | None, typer.Option(help="Our address as Label Studio sees it.")] = None,
    title: Annotated[str, typer.Option(help="What Label Studio calls us.")] = connecting.TITLE,
) -> None:
    """Connect a Label Studio project: backend, webhook, model version, and one prediction as proof."""
    colours = {
        connecting.Outcome.UNCHANGED: "green",
        connecting.Outcome.CHANGED: "yellow",
        connecting.Outcome.FAILED: "red",
    }

    def report(step: connecting.Step) -> None:
        console.print(f"[{colours[step.outcome]}]{step.outcome:>9}[/] {step.name}: {step.found}", highlight=False)

    settings = _settings()
    connection = connecting.connect(
        settings, label_studio_url, api_key, project, backend_url=backend_url, title=title, report=report
    )
    if not connection.is_complete:
        console.print("[red]not connected:[/red] see the failed step")
        raise typer.Exit(1)
    console.print("connected" if connection.is_changed else "connected already, nothing was changed")


@app.command()
def doctor(project: Annotated[int | None, typer.Option(help="Look at this project only.")] = None) -> None:
    """Check each part, and say what mends what is wrong."""
    checks = doctors.examine(_settings(), project)
    for check in checks:
        mark = "[green]ok[/green]   " if check.is_ok else "[red]wrong[/red]"
        console.print(f"{mark} {check.name}: {check.found}", highlight=False)
        if check.remedy:
            console.print(f"      {check.remedy}", highlight=False)
    raise typer.Exit(0 if all(check.is_ok for check in checks) else 1)


@app.command()
def train(
    project: ProjectId,
    wait: Annotated[bool, typer.Option(help="Wait until the run has ended.")] = False,
) -> None:
    """Start a training run now."""
    settings, store = _open()
    run = training_runs.request(store, project, "lorabel train")
    if not Jobs(settings).train(run.id, run.attempt):
        console.print("Redis cannot be reached: the run starts with the next sweep")
    console.print(f"run {run.id} of project {project} is queued")
    if wait:
        _wait_for(store, project, run.id)


@app.command()
def preannotate(
    project: ProjectId,
    only_unlabeled: Annotated[bool, typer.Option("--only-unlabeled/--all", help="Which tasks.")] = True,
    tasks: Annotated[str | None, typer.Option(help="These tasks by id, comma separated.")] = None,
    detach: Annotated[bool, typer.Option(help="Do not wait for the end.")] = False,
    cancel: Annotated[bool, typer.Option(help="Cancel the project's bulk runs instead.")] = False,
) -> None:
    """Predict a project's tasks in bulk and write the predictions back to Label Studio."""
    settings, store = _open()
    if cancel:
        _cancel(store, project)
        return
    ids = None if tasks is None else _task_ids(tasks)
    run = bulk_runs.request(
        store, settings, project, "lorabel preannotate", only_unlabeled=only_unlabeled, task_ids=ids
    )
    _start(settings, store, run, detach)


def _start(settings: Settings, store: Store, run: BulkRun, is_detached: bool) -> None:
    """Have a bulk run done, and show it until it has ended."""
    if not Jobs(settings).preannotate(run):
        console.print("Redis cannot be reached: the run starts with the next sweep")
    if is_detached:
        console.print(f"bulk run {run.id} of project {run.project_id} is queued")
        return
    try:
        run = follow(store, run, console)
    except KeyboardInterrupt:
        console.print(f"bulk run {run.id} goes on; `lorabel preannotate {run.project_id} --cancel` ends it")
        raise typer.Exit(128 + signal.SIGINT) from None
    report(run, console)
    raise typer.Exit(0 if run.state == RunState.FINISHED else 1)


@app.command(name="label-errors")
def list_label_errors(
    project: ProjectId, most: Annotated[int, typer.Option(min=1, help="Most lines.")] = 50
) -> None:
    """List annotations that are probably wrong, the worst first."""
    settings, store = _open()
    sources = label_errors.Sources(settings, store, ModelClient(settings), Authorizations())
    found = label_errors.find(sources, project)
    table = _table("task", "annotation", "control tag", "given", "suggested", "score")
    for one in found.errors[:most]:
        ids = (str(one.task_id), str(one.annotation_id))
        table.add_row(*ids, one.from_name, one.given, one.suggested, f"{one.score:.2f}")
    console.print(table)
    console.print(f"{len(found.errors)} of {found.checked} annotations are probably wrong")
    for why in found.left_out:
        console.print(f"left out: {why}", highlight=False)


@app.command()
def order(
    project: ProjectId,
    strategy: Annotated[Strategy, typer.Option(help="What goes first.")] = Strategy.UNCERTAINTY,
    detach: Annotated[bool, typer.Option(help="Do not wait for the end.")] = False,
) -> None:
    """Order a project's unlabeled tasks for Label Studio's stream, so that few annotations teach much."""
    settings, store = _open()
    run = bulk_runs.request(
        store, settings, project, "lorabel order", only_unlabeled=True, strategy=strategy.value
    )
    _start(settings, store, run, detach)


def _cancel(store: Store, project: int) -> None:
    with store.read() as session:
        projects.get(session, project)
        active = [run for run in bulk_runs.list_of(session, project) if run.state in ACTIVE]
    for run in active:
        report(bulk_runs.cancel(store, project, run.id), console)
    if not active:
        console.print(f"project {project} has no bulk run that waits or is on")


def _task_ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} are no task ids; expected for example 1,2,3", param_hint="--tasks")
    return [int(part) for part in parts]


@app.command()
def search(
    project: ProjectId,
    text: Annotated[str | None, typer.Argument(help="What the tasks are to be like.")] = None,
    task: Annotated[int | None, typer.Option(help="Tasks like this one, by id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
) -> None:
    """Show the tasks that are most like a text, or like another task."""
    if bool(text) == (task is not None):
        raise typer.BadParameter('expected a text or a task: `lorabel search 1 "red star"` or `--task 7`')
    from lorabel.search.searcher import Searcher, task_links

    settings, store = _open()
    searcher = Searcher(settings, store, ModelClient(settings), Authorizations())
    if task is not None:
        found = searcher.like_task(project, task, limit)
    else:
        found = searcher.by_text(project, text or "", limit)
    with store.read() as session:
        links = task_links(projects.get(session, project), settings, found.hits)
    table = _table("task", "similarity", "in Label Studio")
    for hit, link in zip(found.hits, links, strict=True):
        table.add_row(str(hit.task_id), f"{hit.similarity:.3f}", link or "")
    console.print(table)
    console.print(f"out of {found.indexed} tasks of project {project}")
    if found.missing:
        console.print(f"{found.missing} more are not embedded yet, or cannot be: `lorabel index {project}`")


@app.command()
def index(project: ProjectId) -> None:
    """Embed all tasks of a project for `lorabel search`, which else does it bit by bit."""
    from lorabel.search.searcher import Searcher

    settings, store = _open()
    found = Searcher(settings, store, ModelClient(settings), Authorizations()).index(project)
    console.print(f"{found.embedded} tasks were embedded, {found.total} of project {project} are")
    for task_id, reason in list(found.unread.items())[:FAILURES_SHOWN]:
        console.print(f"task {task_id} cannot be: {reason}", highlight=False)
    if len(found.unread) > FAILURES_SHOWN:
        console.print(f"and {len(found.unread) - FAILURES_SHOWN} more")


@app.command(name="versions")
def list_versions(project: ProjectId) -> None:
    """List a project's model versions, newest first."""
    _, store = _open()
    with store.read() as session:
        found = versions.list_of(session, project)
        live = projects.get(session, project).live_version
    table = _table("version", "state", "created", "trained on", "decision")
    for version in found:
        decision = version.metrics.get("decision", "")
        table.add_row(version.name, version.state, _when(version), str(len(version.trained_on)), decision)
    table.add_row(f"p{project}.v0", "live" if live.endswith(".v0") else "base", "", "", "the base models")
    console.print(table)


@app.command()
def promote(project: ProjectId, version: Annotated[str, typer.Argument(help="`p1.v3`, `v3` or `3`.")]) -> None:
    """Make a version live for the next prediction."""
    settings, store = _open()
    live = promotion.promote(store, ModelClient(settings), project, versions.parse_number(project, version))
    Jobs(settings).look_ahead(project)
    console.print(f"{live} is live")


@app.command()
def rollback(project: ProjectId) -> None:
    """Make the live version's parent live again, for the next prediction."""
    settings, store = _open()
    live = promotion.rollback(store, ModelClient(settings), project)
    Jobs(settings).look_ahead(project)
    console.print(f"{live} is live")


@app.command()
def status() -> None:
    """Show every project with its live version and its newest training run."""
    _, store = _open()
    table = _table("project", "live", "run", "state", "step", "loss", "seconds left", "reason, decision or error")
    with store.read() as session:
        for project in projects.list_all(session):
            newest = next(iter(training_runs.list_of(session, project.id)), None)
            table.add_row(*_status_row(project, newest))
    console.print(table)


def _status_row(project: Project, run: TrainingRun | None) -> list[str]:
    if run is None:
        return [str(project.id), project.live_version, "", "", "", "", "", "no run yet"]
    return [
        str(project.id),
        project.live_version,
        str(run.id),
        run.state,
        f"{run.step} of {run.steps}",
        "" if run.loss is None else f"{run.loss:.3f}",
        "" if run.seconds_left is None else f"{run.seconds_left:.0f}",
        run.error or run.decision or run.reason,
    ]


def _wait_for(store: Store, project: int, run_id: int) -> None:
    while True:
        with store.read() as session:
            run = training_runs.get(session, project, run_id)
        if run.state == RunState.FAILED:
            raise LorabelError(f"run {run_id} failed: {run.error}")
        if run.state == RunState.FINISHED:
            console.print(run.decision or "finished")
            return
        time.sleep(POLL_S)


def _when(version: ModelVersion) -> str:
    return version.created_at.strftime("%Y-%m-%d %H:%M")


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _open() -> tuple[Settings, Store]:
    settings = _settings()
    store = Store.open(settings)
    store.migrate()
    return settings, store


def _settings() -> Settings:
    settings = Settings()
    logs.configure(settings, RichHandler(console=Console(stderr=True), show_path=False))
    return settings


if __name__ == "__main__":
    main()
