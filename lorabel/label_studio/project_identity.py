"""Makes sure that Label Studio's API shows the project that is meant.

An address may have got another Label Studio, or one that was reset: then its project 1 is not our project 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from lorabel.database.project_keys import is_same_second
from lorabel.database.tables import Project
from lorabel.errors import LabelStudioRefusedError
from lorabel.label_studio.access import LabelStudioAccess
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import ProjectInfo


@contextmanager
def project_client(project: Project, access: LabelStudioAccess, timeout_s: float) -> Iterator[LabelStudio]:
    """A client of the project's Label Studio.

    Raises:
        LabelStudioError: as `check_identity`.
    """
    with LabelStudio(access.url, access.api_key, timeout_s) as client:
        check_identity(client, project)
        yield client


def check_identity(client: LabelStudio, project: Project) -> ProjectInfo:
    """The project's settings in Label Studio, if it is the same project there.

    Raises:
        LabelStudioRefusedError: Label Studio has no such project, or another one with its id.
        LabelStudioError: Label Studio cannot be reached.
    """
    info = client.project(project.label_studio_id)
    created_at = project.label_studio_created_at
    if created_at is None or info.created_at is None or is_same_second(created_at, info.created_at):
        return info
    reason = (
        f"Label Studio at {client.url} has another project {info.id} than project {project.both_ids} here: it was "
        f"created at {info.created_at}, not at {created_at}"
    )
    raise LabelStudioRefusedError(
        f"{reason}; if it was reset, connect its new project with `lorabel connect`",
        status_code=httpx.codes.NOT_FOUND,
        detail=reason,
    )
