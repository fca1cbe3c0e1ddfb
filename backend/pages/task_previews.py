"""What tasks show, in a line of text and the address of a picture, for lists of tasks."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cachetools import TTLCache
from sqlalchemy import select

from lorabel.contracts import Content, Modality
from lorabel.database.store import Store, id_chunks
from lorabel.database.tables import Annotation, Project
from lorabel.errors import LabelConfigError, LabelStudioError, UnreadableError
from lorabel.label_studio.access import api_access
from lorabel.label_studio.project_identity import project_client
from lorabel.labeling.label_config import ObjectTag, parse
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.labeling.task_content import MODALITIES, optional_contents
from lorabel.redaction import Redactor
from lorabel.settings import Settings

log = logging.getLogger(__name__)

MOST_TEXT = 200
# So many more characters are looked at, for what begins before the cut.
BESIDE = 300
# A longer text is not read for a preview of MOST_TEXT characters: HTML takes long.
LONGEST_SHOWN = 100_000
LABEL_STUDIO_TIMEOUT_S = 5.0
KEPT_BYTES = 8 * 2**20
KEPT_S = 600.0


@dataclass(frozen=True)
class Preview:
    """What a task shows.

    Attributes:
        text: the beginning of its texts; of sounds and videos the names of the files; empty if there is none.
        picture_url: the address of its first picture, as in the task's data; None if there is none.
    """

    text: str = ""
    picture_url: str | None = None

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return 200 + len(self.text) + len(self.picture_url or "")


class TaskPreviews:
    """Previews of tasks: from their annotations, else asked from Label Studio and kept for KEPT_S. Thread-safe."""

    def __init__(self, settings: Settings, store: Store, redactor: Redactor) -> None:
        self._settings, self._store, self._redactor = settings, store, redactor
        self._kept: TTLCache[tuple[int, int], Preview] = TTLCache(
            KEPT_BYTES, KEPT_S, getsizeof=lambda preview: preview.nbytes
        )
        self._lock = threading.Lock()

    def read(self, project: Project, task_ids: Sequence[int]) -> dict[int, Preview]:
        """The previews of those of these tasks whose data is known, or that Label Studio tells."""
        with self._lock:
            previews = {
                task_id: preview
                for task_id in task_ids
                if (preview := self._kept.get((project.id, task_id))) is not None
            }
        previews |= self._make(project, self._annotated(project, _missing(task_ids, previews)))
        asked = self._ask(project, _missing(task_ids, previews))
        return previews | self.keep(project, asked)

    def data(self, project: Project, task_id: int) -> dict[str, Any] | None:
        """The data of a task, masked; None if it is not known here, and Label Studio does not tell it.

        Raises:
            RedactionError: it cannot be masked.
        """
        known = self._annotated(project, [task_id])
        asked = {} if known else self._ask(project, [task_id])
        if asked and self._redactor.is_on:
            asked = {task_id: RedactedBody(self._redactor).of({"data": asked.get(task_id)})["data"]}
        data = (known or asked).get(task_id)
        return data if isinstance(data, dict) else None

    def keep(self, project: Project, data: Mapping[int, Any]) -> dict[int, Preview]:
        """Make previews of tasks from their data, and keep them for `read`."""
        previews = self._make(project, data)
        with self._lock:
            for task_id, preview in previews.items():
                # What is larger than all of the memory, such as a data URL of some MB, is asked for again.
                if preview.nbytes < self._kept.maxsize:
                    self._kept[project.id, task_id] = preview
        return previews

    def _make(self, project: Project, data: Mapping[int, Any]) -> dict[int, Preview]:
        tags = _object_tags(project)
        return {
            task_id: _preview(tags, task, self._redactor)
            for task_id, task in data.items()
            if isinstance(task, dict)
        }

    def _annotated(self, project: Project, task_ids: Sequence[int]) -> dict[int, Any]:
        """Data of tasks that have an annotation here."""
        data: dict[int, Any] = {}
        with self._store.read() as session:
            for chunk in id_chunks(task_ids):
                rows = select(Annotation.task_id, Annotation.task_data).where(
                    Annotation.project_id == project.id,
                    Annotation.task_id.in_(chunk),
                    Annotation.is_deleted.is_(False),
                )
                data |= {row[0]: row[1] for row in session.execute(rows) if row[0]}
        return data

    def _ask(self, project: Project, task_ids: Sequence[int]) -> dict[int, Any]:
        """Data of tasks from Label Studio; of none if it does not answer, or there is no token for it."""
        access = api_access(project, self._settings)
        if access is None or not task_ids:
            return {}
        try:
            with project_client(project, access, LABEL_STUDIO_TIMEOUT_S) as client:
                tasks = client.tasks_of(project.label_studio_id, task_ids)
        except LabelStudioError as error:
            log.warning("project %d: what %d tasks show is not known: %s", project.id, len(task_ids), error)
            return {}
        return {task.task_id: task.data for task in tasks}


def picture_tag(project: Project) -> str | None:
    """The name of the object tag whose picture is shown; None if the label config has none."""
    return next((tag.name for tag in _object_tags(project) if tag.tag == "Image"), None)


def labels_of(project: Project, from_name: str) -> list[str]:
    """The labels of a control tag, in the order of the label config; none if it cannot be read."""
    try:
        controls = parse(project.label_config or "").controls
    except LabelConfigError:
        return []
    return [label.value for control in controls if control.name == from_name for label in control.labels]


def _missing(task_ids: Sequence[int], previews: Mapping[int, Preview]) -> list[int]:
    return [task_id for task_id in task_ids if task_id not in previews]


def _object_tags(project: Project) -> list[ObjectTag]:
    """The object tags of the label config whose contents are known; none if it cannot be read."""
    try:
        controls = parse(project.label_config or "").controls
    except LabelConfigError:
        return []
    tags = dict.fromkeys(tag for control in controls for tag in (*control.objects, *control.context))
    return [tag for tag in tags if tag.tag in MODALITIES]


def picture_urls(project: Project, data: dict[str, Any]) -> list[str]:
    """The addresses of a task's pictures, as in its data, in the order of the label config."""
    urls = []
    for tag in _object_tags(project):
        try:
            contents = optional_contents(tag, data)
        except UnreadableError:
            continue
        urls += [each.media.url for each in contents if each.media and each.modality == Modality.IMAGE]
    return urls


def _preview(tags: Iterable[ObjectTag], data: dict[str, Any], redactor: Redactor) -> Preview:
    texts, picture_url = [], None
    for tag in tags:
        shown = tag.shown(data)
        if tag.tag != "Image" and isinstance(shown, str) and len(shown) > LONGEST_SHOWN:
            texts.append(f"a text of {len(shown):,} characters")
            continue
        try:
            contents = optional_contents(tag, data)
        except UnreadableError:
            continue
        for content in contents:
            if content.media is not None and content.modality == Modality.IMAGE:
                picture_url = picture_url or content.media.url
            else:
                texts.append(_text(content))
    text = " · ".join(" ".join(text.split()) for text in texts if text.strip())
    # Masked before it is cut: a part of an e-mail address may not look like an e-mail address.
    text = redactor.masked_message(text[: MOST_TEXT + BESIDE]) if redactor.is_on else text
    return Preview(text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…", picture_url)


def _text(content: Content) -> str:
    """A text, or the name of the file."""
    if content.media is None:
        return content.text or ""
    try:
        return urlsplit(content.media.url[:LONGEST_SHOWN]).path.rpartition("/")[2][:MOST_TEXT]
    except ValueError:
        return ""
