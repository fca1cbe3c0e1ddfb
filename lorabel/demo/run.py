"""`lorabel demo`: the real Label Studio and all of Lorabel on this machine, connected, with pictures to label."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from lorabel.commands import connect as connecting
from lorabel.commands.model_folder import check_model_folders
from lorabel.commands.supervisor import Supervisor, check_port
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.demo import DETECTOR_FOLDER, MODEL_FOLDER, SEGMENTER_FOLDER, annotator, scene_annotator
from lorabel.demo import account as accounts
from lorabel.demo import project as prints
from lorabel.demo import scene_project as scenes
from lorabel.demo.account import Account
from lorabel.demo.annotator import Annotator, Round
from lorabel.demo.installation import ADDRESS, PRIVATE_ADDRESSES, Installation
from lorabel.demo.scene_annotator import Clicks, SceneAnnotator, SceneRound
from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.settings import Settings

PICTURES, SCENES = 120, 60
START_TIMEOUT_S = 240.0
POLL_S = 0.5


def demo_settings(*, is_headless: bool) -> Settings:
    """The settings of the demo.

    Where the environment sets nothing, this sets variables that suit the demo; the processes that the demo starts
    inherit them.
    """
    defaults = {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}",
        "MODEL_SEGMENTER": f"local-dir:{SEGMENTER_FOLDER}",
        "TRAIN_AFTER_ANNOTATIONS": str(annotator.TRAIN_AFTER if is_headless else 8),
        "TRAIN_AFTER_SECONDS": "20",
        # The demo's pictures are few and its model is small.
        "LORA_MIN_TASKS": "40",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return Settings()


def run(*, is_headless: bool, console: Console) -> int:
    """Run the demo until Ctrl-C, or if headless until the last round. Then stop every process that it started.

    Returns:
        The exit code. A headless run returns 0 only if the loop improved.

    Raises:
        LorabelError: a port is taken, the installation failed, or a part does not become ready.
    """
    settings = demo_settings(is_headless=is_headless)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return Demo(settings, console).run(is_headless=is_headless)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT if is_headless else 0


class Demo:
    """One run of the demo. Its data is in DATA_DIR/label-studio, so that the next run continues."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.folder = settings.data_dir.absolute() / "label-studio"
        self.account_file = self.folder / "account.json"
        self.url = f"http://{ADDRESS}:{settings.label_studio_port}"

    def run(self, *, is_headless: bool) -> int:
        check_model_folders(self.settings)
        supervisor = Supervisor(self.settings)
        try:
            supervisor.claim()
            self._check_ports()
            account = accounts.load_or_create(self.account_file)
            installation = Installation.under(self.folder)
            with self.console.status("preparing Label Studio") as status:
                installation.install(lambda text: status.update(text))
                installation.create_database(account.email, account.password, lambda text: status.update(text))
            command = installation.command(self.settings.label_studio_port, PRIVATE_ADDRESSES)
            supervisor.add("label-studio", command)
            supervisor.start()
            self._wait(supervisor)
            account = self._with_token(account)
            if is_headless:
                return self._work_headless(account)
            self._invite(self._with_projects(account))
            supervisor.run_forever()
            return 0
        finally:
            with self.console.status("ending every process"):
                supervisor.stop()
            self.console.print("every process has ended")

    def _check_ports(self) -> None:
        """Check the ports before the installation, which takes minutes."""
        model_server = urlsplit(self.settings.model_server_url)
        check_port(ADDRESS, self.settings.label_studio_port, "LABEL_STUDIO_PORT")
        check_port(self.settings.host, self.settings.port, "PORT")
        check_port(self.settings.model_server_host, model_server.port or 80, "MODEL_SERVER_URL")

    def _wait(self, supervisor: Supervisor) -> None:
        with self.console.status("starting Lorabel and Label Studio") as status:
            supervisor.wait_until_ready(START_TIMEOUT_S, lambda part: status.update(f"waiting for {part}"))
            status.update(f"waiting for Label Studio at {self.url}")
            version = self._wait_for_label_studio()
        self.console.print(f"Lorabel is ready, Label Studio {version} answers at {self.url}")

    def _wait_for_label_studio(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        with LabelStudio(self.url, None, timeout_s=5.0) as label_studio:
            while True:
                try:
                    return label_studio.server().version
                except LabelStudioError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(POLL_S)

    def _with_token(self, account: Account) -> Account:
        account = accounts.with_token(account, self.url)
        accounts.save(account, self.account_file)
        return account

    def _with_projects(self, account: Account) -> Account:
        """The account with both projects connected. Those that are missing are created."""
        if account.project_id is None:
            account = replace(account, project_id=self._create(account, prints.create_project, PICTURES))
            accounts.save(account, self.account_file)
        if account.scenes_project_id is None:
            account = replace(account, scenes_project_id=self._create(account, scenes.create_project, SCENES))
            accounts.save(account, self.account_file)
        for project_id in (account.project_id, account.scenes_project_id):
            if project_id is not None:
                self._connect(account, project_id)
        return account

    def _create(
        self, account: Account, create: Callable[[LabelStudio, int], LabelStudioId], count: int
    ) -> LabelStudioId:
        with (
            LabelStudio(self.url, account.token, timeout_s=30.0) as label_studio,
            self.console.status(f"drawing {count} pictures and uploading them"),
        ):
            project_id = create(label_studio, count)
        self.console.print(f"project {project_id} has {count} pictures")
        return project_id

    def _connect(self, account: Account, project_id: LabelStudioId) -> int:
        """Returns our own id of the project."""
        connection = connecting.connect(self.settings, self.url, account.token or "", project_id)
        for step in connection.steps:
            self.console.print(f"  {step.name}: {step.finding}", highlight=False)
        if not connection.is_complete or connection.project_id is None:
            raise LabelStudioError("the demo's project could not be connected; see the steps above")
        return connection.project_id

    def _work_headless(self, account: Account) -> int:
        """Let the scripted annotators work in new projects, so that the first predictions are zero-shot.

        Returns:
            The exit code.
        """
        store = Store.open(self.settings)
        try:
            with LabelStudio(self.url, account.token, timeout_s=60.0) as label_studio:
                label_studio_id = self._create(account, prints.create_project, annotator.PICTURES)
                project_id = self._connect(account, label_studio_id)
                rounds = Annotator(label_studio, store, label_studio_id, project_id).work(self._show_round)
                label_studio_id = self._create(account, scenes.create_project, scene_annotator.SCENES)
                project_id = self._connect(account, label_studio_id)
                scene_rounds, clicks = SceneAnnotator(label_studio, store, label_studio_id, project_id).work(
                    self._show_scene_round
                )
        finally:
            store.close()
        self.console.print(_table(rounds))
        self.console.print(_scenes_table(scene_rounds, clicks))
        if annotator.has_improved(rounds) and scene_annotator.has_improved(scene_rounds, clicks):
            self.console.print("[green]the loop improved[/green]")
            return 0
        self.console.print(
            f"[red]the loop did not improve[/red]: expected a first share of at most "
            f"{annotator.MOST_AT_FIRST} and a last one of at least {annotator.LEAST_AT_LAST}; F1 of "
            f"{scenes.GRADE} better by at least {scene_annotator.LEAST_GAIN}, that of the others lower by at "
            f"most {scene_annotator.SPREAD}; and masks with a mean IoU of at least {scene_annotator.LEAST_IOU}"
        )
        return 1

    def _show_round(self, finished: Round) -> None:
        learned = "" if finished.head_s is None else f", learned {finished.head_s:.2f} s after the last submit"
        trained = "" if finished.wait_s is None else f", trained {finished.wait_s:.1f} s after it"
        self.console.print(
            f"  {finished.annotations} annotations, {finished.version}: {finished.right} of {finished.total} right"
            f"{learned}{trained}",
            highlight=False,
        )
        self._show_decision(finished.decision)

    def _show_scene_round(self, finished: SceneRound) -> None:
        learned = "" if finished.head_s is None else f", learned {finished.head_s:.2f} s after the last submit"
        self.console.print(
            f"  {finished.annotations} annotated scenes: F1 of the boxes of {scenes.GRADE} "
            f"{finished.grade_f1:.2f}, of the labels that words say {finished.words_f1:.2f}{learned}",
            highlight=False,
        )

    def _show_decision(self, decision: str | None) -> None:
        if decision is not None:
            self.console.print(f"    the LoRA run: {decision}", highlight=False, markup=False)

    def _invite(self, account: Account) -> None:
        self.console.print(
            f"\n[bold]{self.url}/projects/{account.project_id}/data[/bold]        grades of prints\n"
            f"[bold]{self.url}/projects/{account.scenes_project_id}/data[/bold]        boxes and masks\n"
            f"  login     {account.email}\n"
            f"  password  {account.password}\n\n"
            "Try: press [bold]Label All Tasks[/bold]. Solid prints are Grade A, striped ones B, outlined ones C;\n"
            "the model cannot know that, so its first pre-annotations are guesses. Correct and submit them.\n"
            "Each one is learned at once: the next pre-annotations know it.\n\n"
            "In the other project, boxes and masks of blue squares and green stars are there before the first\n"
            "annotation; Grade A is a red circle with a hole, which is learned. For the mask of a click,\n"
            "switch on [bold]Auto-Annotation[/bold], choose a label and the smart point, and click on a thing.\n\n"
            f"After {self.settings.train_after_annotations} annotations it trains, too (see `lorabel status`). "
            "Ctrl-C ends everything; `lorabel demo` goes on here.",
            highlight=False,
        )


def _table(rounds: list[Round]) -> Table:
    table = Table(title="Right pre-annotations on tasks that the model had not seen")
    waited = ("seconds to new head", "to trained")
    for name in ("annotations so far", "predicted by", "right", *waited):
        table.add_column(name, justify="right", no_wrap=name == "right")
    for finished in rounds:
        head = "" if finished.head_s is None else f"{finished.head_s:.2f}"
        wait = "" if finished.wait_s is None else f"{finished.wait_s:.1f}"
        share = f"{finished.share:.2f} ({finished.right} of {finished.total})"
        table.add_row(str(finished.annotations), finished.version, share, head, wait)
    return table


def _scenes_table(rounds: list[SceneRound], clicks: Clicks) -> Table:
    table = Table(title=f"Boxes on {scene_annotator.UNSEEN} scenes that the model had not seen")
    for name in ("annotated scenes", f"F1 of {scenes.GRADE}", "of the others", "seconds to new head"):
        table.add_column(name, justify="right")
    for finished in rounds:
        head = "" if finished.head_s is None else f"{finished.head_s:.2f}"
        table.add_row(str(finished.annotations), f"{finished.grade_f1:.2f}", f"{finished.words_f1:.2f}", head)
    clicked = f"mean IoU {clicks.mean_iou:.2f}, median {clicks.median_ms:.0f} ms"
    table.caption = f"Masks of {scene_annotator.CLICKS} clicks: {clicked}"
    return table


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal_number)
