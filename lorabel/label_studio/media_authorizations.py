"""The Authorization headers with which media is fetched from Label Studio."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from time import monotonic

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import LabelStudioError, SecretKeyError
from lorabel.label_studio.access import LabelStudioAccess, label_studio_access, resolve_media
from lorabel.label_studio.client import LabelStudio
from lorabel.settings import Settings

log = logging.getLogger(__name__)

MOST_CLIENTS = 64
TIMEOUT_S = 5.0
RETRY_AFTER_S = 30.0


class Authorizations:
    """Gives Authorization headers for many projects. Thread-safe.

    Keeps one client per (address, token), since each client caches its access token; the least recently used of
    more than MOST_CLIENTS is closed and dropped.
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, str], LabelStudio] = OrderedDict()
        self._refused_at: dict[tuple[str, str], float] = {}
        self._lock = Lock()

    def find(self, access: LabelStudioAccess | None) -> str | None:
        """The header's value; None if there is no token.

        The token from a `/setup` request is a legacy token and is sent as it is. Nobody has checked the host name
        in that request, so we do not call that host to exchange a token.

        Raises:
            LabelStudioError: Label Studio refused the token, now or less than RETRY_AFTER_S ago.
            SecretKeyError: the token was encrypted with another key.
        """
        if access is None or not access.api_key:
            return None
        if not access.is_trusted:
            return f"Token {access.api_key}"
        key = (access.url, access.api_key)
        with self._lock:
            client = self._get_client(key)
            refused_at = self._refused_at.get(key)
        if refused_at is not None and monotonic() - refused_at < RETRY_AFTER_S:
            raise LabelStudioError(f"Label Studio at {access.url} refused the token a moment ago")
        return self._request_header(key, client)

    def resolver(
        self, project: Project, settings: Settings, on_refusal: Callable[[], None] = lambda: None
    ) -> Callable[[MediaRef], MediaRef]:
        """Make a function that turns an address from the project's task data into one that can be fetched.

        The function adds the Authorization header to addresses of Label Studio (see `resolve_media`). If Label
        Studio refuses the token, or if it cannot be decrypted, media is fetched without a header.

        Args:
            on_refusal: called once if Label Studio refuses the token, or it cannot be decrypted.
        """
        access = label_studio_access(project, settings)
        authorization = None
        try:
            authorization = self.find(access)
        except (LabelStudioError, SecretKeyError) as error:
            on_refusal()
            log.warning("project %d: media is fetched without a token: %s", project.id, error)
        return lambda media: resolve_media(media, access, authorization)

    def close(self) -> None:
        """Close the connections of all clients."""
        for client in self._clients.values():
            client.close()

    def _request_header(self, key: tuple[str, str], client: LabelStudio) -> str | None:
        """Without the lock, since the client may have to exchange its token."""
        try:
            authorization = client.authorization()
        except LabelStudioError:
            with self._lock:
                self._refused_at[key] = monotonic()
            raise
        with self._lock:
            self._refused_at.pop(key, None)
        return authorization

    def _get_client(self, key: tuple[str, str]) -> LabelStudio:
        """The kept client, or a new one; the lock is held."""
        client = self._clients.pop(key, None) or LabelStudio(*key, timeout_s=TIMEOUT_S)
        self._clients[key] = client
        if len(self._clients) > MOST_CLIENTS:
            oldest, dropped = self._clients.popitem(last=False)
            self._refused_at.pop(oldest, None)
            # Another thread may be exchanging the client's token just now: that does not use its connections.
            dropped.close()
        return client
