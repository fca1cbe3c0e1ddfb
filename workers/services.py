"""What the jobs of one worker process share. RQ calls jobs by dotted path with JSON arguments, so they fetch it
from here; it is made at the first use and kept, base models too."""

import logging
import os
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.errors import SettingsError
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.authorizations import Authorizations
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings

if TYPE_CHECKING:
    from lorabel.families.base import Family
    from workers.lookahead import Lookahead

log = logging.getLogger(__name__)

LOOKAHEAD_PROJECTS = 1024
LOOKAHEAD_TTL_S = 300.0


@dataclass(frozen=True)
class Services:
    """`lookahead`: by project what was predicted ahead a short while ago; of one thread only."""

    settings: Settings
    store: Store
    jobs: Jobs
    registry: AdapterFolders
    fetcher: Fetcher
    model_client: ModelClient
    authorizations: Authorizations
    lookahead: "TTLCache[int, Lookahead]" = field(
        default_factory=lambda: TTLCache(LOOKAHEAD_PROJECTS, LOOKAHEAD_TTL_S)
    )
    _families: "dict[type[Family], Family]" = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        return cls(
            settings,
            Store.open(settings),
            Jobs(settings),
            AdapterFolders(settings.adapters_dir),
            Fetcher(settings),
            ModelClient(settings),
            Authorizations(),
        )

    def family(self, kind: "type[Family]") -> "Family":
        """The base model for training, loaded once and kept warm. Weights are float32 whatever the precision:
        accelerate casts the products."""
        # The light worker never comes here, and starts in a second without torch.
        import torch

        from lorabel.families.loading import load_family

        if kind not in self._families:
            family = load_family(kind, self.settings.for_training, dtype=torch.float32)
            if family.device.type == "cpu":
                # The other half is the model server's. Two processes that each take every core wait for each
                # other at every barrier, and a step takes ten times as long.
                torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
            self._families[kind] = family
        return self._families[kind]

    def warm_up(self) -> None:
        """Load the base models of FAMILIES before the first run asks for one. One that cannot be loaded fails its
        own runs."""
        from lorabel.families.loading import families_named

        for kind in families_named(self.settings):
            try:
                self.family(kind)
            except SettingsError as error:
                log.error("runs of family %s will fail: %s", kind.name, error)

    def close(self) -> None:
        self.store.close()
        self.fetcher.close()
        self.model_client.close()
        self.authorizations.close()


@cache
def current() -> Services:
    """This process's services, from the environment."""
    return Services.open(Settings())
