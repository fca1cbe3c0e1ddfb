"""Makes a version of a project's model live, or goes back to an earlier version.

The model server loads the version's adapters first, so that no annotator waits for that.
"""

import logging

from lorabel.database import projects, versions
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, ModelServerError
from lorabel.inference.model_client import ModelClient

log = logging.getLogger(__name__)


def promote(store: Store, model_client: ModelClient, project_id: int, number: int) -> str:
    """Preload a version's adapters, make the version live, and retire the version that was live.

    Returns:
        The live version's name.

    Raises:
        NotFoundError: no such project or version.
    """
    with store.read() as session:
        projects.get(session, project_id)
        adapters = versions.adapters_of(session, project_id, number)
    preload(model_client, adapters)
    with store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        versions.make_live(session, project, number)
        return project.live_version


def preload(model_client: ModelClient, adapters: dict[str, str]) -> None:
    """Have the model server load a version's adapters before the version is live.

    A failure is only logged: the model server then loads the adapters at the first prediction.

    Args:
        adapters: names of adapters by control tag.
    """
    try:
        model_client.preload(sorted(adapters.values()))
    except ModelServerError as error:
        log.warning("%s are not preloaded: %s", sorted(adapters.values()), error)


def rollback(store: Store, model_client: ModelClient, project_id: int) -> str:
    """Make the live version's parent live again.

    Returns:
        The live version's name.

    Raises:
        NotFoundError: no such project.
        ConflictError: the base models are live, which have no parent.
    """
    with store.read() as session:
        project = projects.get(session, project_id)
        if project.live_number == 0:
            raise ConflictError(f"project {project_id} runs on the base models: there is nothing to go back to")
        parent = versions.get(session, project_id, project.live_number).parent
    return promote(store, model_client, project_id, parent)
