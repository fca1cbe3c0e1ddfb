"""Removes the folders of adapters and heads of what was forgotten.

The highest number of a project's folders is emptied and not removed, so that it is not used again: the model
server keeps loaded weights under the folder's name.
"""

import time
from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import select

from lorabel.database import forgotten_learning, project_heads, versions
from lorabel.database.adapter_folders import HEAD_FILE, AdapterFolders, heads_folder, tag_folder
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, version_name

# A folder that is being written is younger than this.
WRITING_S = 60.0


class ForgottenFolders:
    """The folders that a project has before its rows are deleted: what is written later has not learned from them.

    Args:
        root: of the folders of all projects.
    """

    def __init__(self, folders: AdapterFolders, project_id: int) -> None:
        self._folders, self._project_id = folders, project_id
        self._heads = folders.head_numbers(project_id)
        self._versions = [folder.number for folder in folders.list_versions() if folder.project_id == project_id]

    def remove_all(self) -> int:
        """Remove the folders of a project that was forgotten. Returns how many had something in them."""
        return self._remove_heads(()) + self._remove_versions(self._versions) + self._remove_temporary()

    def remove_stale(self, store: Store) -> int:
        """Remove heads that answer no more, heads of versions that were to be removed, and versions without a row.

        Returns:
            How many folders were removed or lost a file.
        """
        with store.read() as session:
            answering = {row.folder for row in project_heads.of_project(session, self._project_id).values()}
            known = versions.list_of(session, self._project_id)
            kept = set(
                session.scalars(
                    select(ModelVersion.number).where(
                        ModelVersion.project_id == self._project_id, ModelVersion.adapters_removed_at.is_(None)
                    )
                )
            )
        count = sum(
            self._remove_head_file(version, tag)
            for version in known
            for tag in forgotten_learning.tags_without_file(version)
        )
        count += self._remove_heads(answering)
        count += self._remove_versions([number for number in self._versions if number not in kept])
        return count + self._remove_temporary()

    def _remove_head_file(self, version: ModelVersion, tag: str) -> int:
        path = self._folders.root / version.name / tag_folder(tag) / HEAD_FILE
        existed = path.is_file()
        path.unlink(missing_ok=True)
        return existed

    def _remove_heads(self, answering: Collection[str]) -> int:
        """Remove the folders of heads, but for those that answer."""
        names = [heads_folder(self._project_id, number) for number in self._heads]
        return sum(self._remove(name, is_last=name == names[-1]) for name in names if name not in answering)

    def _remove_versions(self, numbers: Collection[int]) -> int:
        highest = max(self._versions, default=0)
        return sum(
            self._remove(version_name(self._project_id, number), is_last=number == highest) for number in numbers
        )

    def _remove(self, name: str, *, is_last: bool) -> bool:
        if is_last:
            with suppress(FileNotFoundError):
                return self._folders.empty(name)
            return False
        existed = (self._folders.root / name).is_dir()
        self._folders.remove(name)
        return existed

    def _remove_temporary(self) -> int:
        """Remove what killed processes left of folders that they were writing."""
        count = 0
        for folder in self._folders.root.glob(f".p{self._project_id}.*"):
            with suppress(FileNotFoundError):
                if folder.stat().st_mtime < time.time() - WRITING_S:
                    self._folders.remove(folder.name)
                    count += 1
        return count
