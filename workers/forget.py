"""The job that deletes what is kept of a project, a task or an annotator, asked for on a page or over REST.

The files of SQLite are written anew for it, which takes too long for an answer. If the job is lost, everything is
still there, and shown as kept: whoever has asked asks again.
"""

import logging

from lorabel.commands.forgotten_places import delete
from lorabel.database import forget_requests
from lorabel.errors import NotFoundError
from workers.services import Services

log = logging.getLogger(__name__)


def forget(sealed: str) -> None:
    """Do what `lorabel forget` does, and log what was deleted and what is left.

    Raises:
        ForbiddenFormError: none of our processes has asked for it, or not for this project as it is now, or it was
            done before.
    """
    services = Services.current()
    request = forget_requests.take(services.settings, services.store, sealed)
    project_id = request.project_id
    try:
        forgotten, places = delete(
            services.settings, services.store, project_id, request.subject, is_retraining=request.is_retraining
        )
    except NotFoundError:
        log.info("project %d: nothing is kept of it any more", project_id)
        return
    counts = {place: count for place, count in {**forgotten.rows, **places.deleted}.items() if count}
    log.info("project %d: deleted by request: %s", project_id, counts or "nothing was kept")
    for sentence in places.left:
        log.warning("project %d: left: %s", project_id, sentence)
    services.heads_wanted.set()
