"""Makes a version of a project's model live, or goes back to an earlier version.

The model server loads the version's adapters first, so that no annotator waits for that. A version whose adapters
it refuses does not become live.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping

from lorabel.database import project_heads, projects, versions
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, ModelServerError
from lorabel.inference.model_client import ModelClient

log = logging.getLogger(__name__)


def promote(
    store: Store, model_client: ModelClient, project_id: int, number: int, *, learns_from_all: bool = False
) -> str:
    """Preload a version's adapters, make the version live with its heads, and retire the version that was live.

    Args:
        learns_from_all: whether its heads are fitted on all annotations at once. Else those that have arrived
            since the version was made are left out until a run's version becomes live.

    Returns:
        The live version's name.

    Raises:
        NotFoundError: no such project or version, or the folder of an adapter is missing.
        ConflictError: an adapter was trained on another base model than the present one; or the version's adapters
            were removed.
    """
    with store.read() as session:
        projects.get(session, project_id)
        version = versions.get(session, project_id, number) if number else None
    if version is not None:
        versions.require_adapters(version)
        preload(model_client, version.adapters, versions.families(version))
    with store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        versions.make_live(session, project, number)
        project_heads.restore(session, project)
        if learns_from_all:
            project_heads.count_all_again(project)
        return project.live_version


def preload(model_client: ModelClient, adapters: Mapping[str, str], families: Mapping[str, str]) -> None:
    """Have the model server load a version's adapters before the version is live.

    If the model server cannot be reached, or has not loaded an adapter's family, it loads the adapter at the first
    prediction.

    Args:
        adapters: names of adapters by control tag.
        families: names of the adapters' families by control tag; old versions lack them.

    Raises:
        NotFoundError: the folder of an adapter is missing.
        ConflictError: an adapter was trained on another base model than the family's.
    """
    names_by_family: dict[str | None, list[str]] = defaultdict(list)
    for from_name, name in sorted(adapters.items()):
        names_by_family[families.get(from_name)].append(name)
    for family, names in names_by_family.items():
        try:
            model_client.preload(names, family)
        except ModelServerError as error:
            log.warning("%s are not preloaded: %s", names, error)
        except ConflictError as error:
            # Without its name, the family may be one that is not loaded.
            if family is not None:
                raise
            log.warning("%s are not preloaded: %s", names, error)


def rollback(store: Store, model_client: ModelClient, project_id: int) -> str:
    """Make the live version's parent live again.

    Returns:
        The live version's name.

    Raises:
        NotFoundError: no such project, or the folder of an adapter is missing.
        ConflictError: the base models are live, which have no parent; or an adapter was trained on another base
            model than the present one.
    """
    with store.read() as session:
        project = projects.get(session, project_id)
        if project.live_number == 0:
            raise ConflictError(f"project {project_id} runs on the base models: there is nothing to go back to")
        parent = versions.get(session, project_id, project.live_number).parent
    return promote(store, model_client, project_id, parent)
