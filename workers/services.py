"""What the jobs of one worker process share.

RQ calls a job by its dotted path with JSON arguments, so a job gets its services from `Services.current()`.
"""

import logging
import os
import threading
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.explanations.editor import EditorExplanations
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.media.fetching import Fetcher
from lorabel.redaction import Redactor
from lorabel.redactors import make_redactor
from lorabel.search.searcher import Searcher
from lorabel.settings import Settings

if TYPE_CHECKING:
    from lorabel.families.base import Family

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """Settings, database, queues and clients of this process.

    Args:
        heads_wanted: is set when annotations may have changed, so that heads must be fitted (light worker).
    """

    settings: Settings
    store: Store
    jobs: Jobs
    adapter_folders: AdapterFolders
    fetcher: Fetcher
    model_client: ModelClient
    authorizations: Authorizations
    redactor: Redactor
    heads_wanted: threading.Event = field(default_factory=threading.Event)
    _families: "dict[type[Family], Family]" = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Open the services. Raises SettingsError where REDACT names what cannot be masked here."""
        redactor = make_redactor(settings)
        redactor.load()
        return cls(
            settings,
            Store.open(settings),
            Jobs(settings),
            AdapterFolders(settings.adapters_dir),
            Fetcher(settings),
            ModelClient(settings),
            Authorizations(),
            redactor,
        )

    @staticmethod
    @cache
    def current() -> "Services":
        """This process's services, with the settings of the environment; made at the first call and kept."""
        return Services.open(Settings())

    @cached_property
    def editor_explanations(self) -> EditorExplanations:
        """What explains predictions for the editor. The vectors of search are in memory only if it is asked."""
        searcher = Searcher(self.settings, self.store, self.model_client, self.authorizations)
        return EditorExplanations(self.settings, self.store, searcher, are_waited_for=False)

    def family(self, family_type: "type[Family]") -> "Family":
        """The family's base model for training, loaded at the first call and kept.

        The weights are float32 whatever the precision: accelerate casts the products. Not thread-safe.

        Raises:
            SettingsError: the model cannot be loaded.
        """
        # Imported here because the light worker never trains, and starts in a second without torch.
        import torch

        from lorabel.families.loading import load_family

        if family_type not in self._families and family_type.part_types:
            parts = [self.family(part) for part in family_type.part_types]
            self._families[family_type] = family_type.of(parts)
        if family_type not in self._families:
            family = load_family(family_type, self.settings.for_training, dtype=torch.float32)
            if family.device.type == "cpu":
                # The model server has the other half of the cores. Two processes that each use every core wait
                # for each other at every barrier, and a training step takes ten times as long.
                torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
            self._families[family_type] = family
        return self._families[family_type]

    def close(self) -> None:
        self.store.close()
        self.fetcher.close()
        self.model_client.close()
        self.authorizations.close()
