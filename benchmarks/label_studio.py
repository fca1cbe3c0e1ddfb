"""Starts the real Label Studio for a measurement, and makes projects of photographs in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.question import LABEL_CONFIG
from lorabel.commands.connect import connect
from lorabel.database.project_keys import LabelStudioId
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.errors import LabelStudioError
from tests.e2e import label_studio_server
from tests.e2e.label_studio_server import Server, kill_group
from tests.e2e.lorabel_processes import Lorabel


@contextmanager
def running() -> Iterator[Server]:
    """A running Label Studio with an empty data folder. It is installed once per machine."""
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        server = label_studio_server.start(Path(folder) / "data", PRIVATE_ADDRESSES)
        try:
            yield server
        finally:
            kill_group(server.process)


def connected_project(server: Server, lorabel: Lorabel, title: str, images: Sequence[str]) -> int:
    """Make a project, connect it, and import one task per image address. Returns the project's id.

    Raises:
        LabelStudioError: the project could not be connected.
    """
    with server.client() as client:
        settings = {"title": title, "label_config": LABEL_CONFIG, "show_collab_predictions": True}
        project_id = LabelStudioId(client.call("POST", "/api/projects/", json=settings)["id"])
        connection = connect(lorabel.settings, server.url, server.token, project_id)
        if not connection.is_complete:
            raise LabelStudioError(f"project {project_id} is not connected: {connection.steps}")
        client.call("POST", f"/api/projects/{project_id}/import", json=[{"image": image} for image in images])
    return project_id
