"""With which Authorization header a project's media is fetched from Label Studio."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from time import monotonic

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import LabelStudioError
from lorabel.label_studio.access import LabelStudioAccess, label_studio_access, resolve_media
from lorabel.label_studio.client import LabelStudio
from lorabel.settings import Settings

log = logging.getLogger(__name__)

MOST_CLIENTS = 64
TIMEOUT_S = 5.0
RETRY_AFTER_S = 30.0


class Authorizations:
    """Keeps one client per (address, token), since each caches its access token. Thread-safe."""

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, str], LabelStudio] = OrderedDict()
        self._refused_at: dict[tuple[str, str], float] = {}
        self._lock = Lock()

    def find(self, access: LabelStudioAccess | None) -> str | None:
        """The header's value, or None where there is no token.

        The token that `/setup` carries is a legacy one and goes out as it is: nobody vouched for the host
        that came with it, so we do not call that host to exchange anything.

        Raises:
            LabelStudioError: Label Studio refused the token, now or less than RETRY_AFTER_S ago.
        """
        if access is None or not access.api_key:
            return None
        if not access.is_trusted:
            return f"Token {access.api_key}"
        key = (access.url, access.api_key)
        with self._lock:
            client = self._client(key)
            refused_at = self._refused_at.get(key)
        if refused_at is not None and monotonic() - refused_at < RETRY_AFTER_S:
            raise LabelStudioError(f"Label Studio at {access.url} refused the token a moment ago")
        return self._ask(key, client)

    def resolver(
        self, project: Project, settings: Settings, on_refusal: Callable[[], None] = lambda: None
    ) -> Callable[[MediaRef], MediaRef]:
        """What turns an address of the project's task data into one that can be fetched, with its token.

        Args:
            on_refusal: called if Label Studio refuses the token; media is then fetched without one.
        """
        access = label_studio_access(project, settings)
        authorization = None
        try:
            authorization = self.find(access)
        except LabelStudioError as error:
            on_refusal()
            log.warning("project %d: media is fetched without a token: %s", project.id, error)
        return lambda media: resolve_media(media, access, authorization)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _ask(self, key: tuple[str, str], client: LabelStudio) -> str | None:
        try:
            authorization = client.authorization()
        except LabelStudioError:
            with self._lock:
                self._refused_at[key] = monotonic()
            raise
        with self._lock:
            self._refused_at.pop(key, None)
        return authorization

    def _client(self, key: tuple[str, str]) -> LabelStudio:
        client = self._clients.pop(key, None) or LabelStudio(*key, timeout_s=TIMEOUT_S)
        self._clients[key] = client
        if len(self._clients) > MOST_CLIENTS:
            oldest, _ = self._clients.popitem(last=False)
            self._refused_at.pop(oldest, None)
        return client
