"""The titles of projects. They are asked from Label Studio each time, because people may change them there."""

import logging
from collections.abc import Sequence

from lorabel.database.project_keys import is_same_second
from lorabel.database.tables import Project
from lorabel.errors import LabelStudioError, SecretKeyError
from lorabel.label_studio.access import api_access
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import ProjectTitle
from lorabel.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
# Label Studio's largest page of projects.
PROJECTS_PER_PAGE = 100


def project_titles(projects: Sequence[Project], settings: Settings) -> dict[int, str]:
    """Our project id -> title.

    A project is left out if there is no token for its Label Studio, if the token cannot be decrypted or its Label
    Studio does not answer, which is logged, or if Label Studio has another project with its id.
    """
    projects_by_access: dict[tuple[str, str | None], list[Project]] = {}
    for project in projects:
        access = api_access(project, settings)
        if access is None:
            continue
        try:
            projects_by_access.setdefault((access.url, access.api_key), []).append(project)
        except SecretKeyError as error:
            log.warning("the title of project %d is missing: %s", project.id, error)
    titles: dict[int, str] = {}
    for (url, api_key), of_access in projects_by_access.items():
        try:
            titles.update(_titles_at(url, api_key, of_access))
        except LabelStudioError as error:
            log.warning("titles of projects are missing: %s", error)
    return titles


def _titles_at(url: str, api_key: str | None, projects: Sequence[Project]) -> dict[int, str]:
    titles = {}
    with LabelStudio(url, api_key, TIMEOUT_S) as label_studio:
        for start in range(0, len(projects), PROJECTS_PER_PAGE):
            page = projects[start : start + PROJECTS_PER_PAGE]
            known = {row.id: row for row in label_studio.titles([project.label_studio_id for project in page])}
            for project in page:
                row = known.get(project.label_studio_id)
                if row is not None and _is_same(project, row):
                    titles[project.id] = row.title
    return titles


def _is_same(project: Project, row: ProjectTitle) -> bool:
    created_at = project.label_studio_created_at
    return created_at is None or is_same_second(created_at, row.created_at)
