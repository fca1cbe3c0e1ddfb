"""The projects of a Label Studio, for people who choose from them."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from lorabel.label_studio.client import LabelStudio


@dataclass(frozen=True)
class ListedProject:
    """A project as Label Studio lists it. `tasks`: how many it has."""

    id: int
    title: str
    label_config: str
    tasks: int

    @classmethod
    def of(cls, project: dict[str, Any]) -> Self:
        """Read a project as the API gives it."""
        return cls(
            project["id"],
            project["title"] or "",
            project.get("label_config") or "",
            project.get("task_number") or 0,
        )


class ProjectPage(NamedTuple):
    """Some projects. `total`: how many there are, those on other pages included."""

    projects: list[ListedProject]
    total: int


def list_projects(label_studio: LabelStudio, page: int, page_size: int, title: str = "") -> ProjectPage:
    """A page of the projects that the token's user sees, the newest first.

    Args:
        page: from 1 on.
        title: only projects whose title has this text.

    Raises:
        LabelStudioError: there is no such page, or Label Studio cannot be reached.
    """
    fields = {"include": "id,title,label_config,task_number", "page": page, "page_size": page_size}
    answer = label_studio.call("GET", "/api/projects/", params=fields | ({"title": title} if title else {}))
    return ProjectPage([ListedProject.of(row) for row in answer["results"]], answer["count"])
