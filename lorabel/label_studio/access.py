"""The address and token of a project's Label Studio, and which media addresses they apply to."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, UnreadableError
from lorabel.media.data_url import is_data_url
from lorabel.media.fetching import ascii_url, origin
from lorabel.media.label_studio_paths import media_base
from lorabel.secret_keys import Keyring, is_sealed
from lorabel.settings import Settings

# Whose decrypted values are kept in memory.
MOST_TOKENS = 512
# Names of files that change nothing but the end of an address. The paths at which Label Studio serves media have
# no dots but in names of files.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+", re.ASCII)
SAMPLE_NAME = "sample.bin"
_BEYOND_PATH = re.compile("[?#]")
# Longer ones are not remembered, and no web server of people has a longer one.
LONGEST_ADDRESS = 2000


@dataclass(frozen=True)
class SealedToken:
    """An encrypted token, and where its key is. Decrypted only where it is needed, since the key may be wrong."""

    stored: str
    keys: str | None = field(repr=False)
    data_dir: Path


@dataclass(frozen=True)
class LabelStudioAccess:
    """Address of a project's Label Studio and the token for it.

    Attributes:
        token: a personal access token or a legacy token, or one that is encrypted; None if there is none.
        is_trusted: whether the operator named the address, by a setting or with `lorabel connect`. The address
            that `/setup` carries is not trusted, because nobody has checked it: media there must be at public
            addresses like any other.
        public_url: the address that Label Studio has for browsers, from `/setup`; it may have another host and
            path. Nothing is fetched from it, and no token is sent to it.
    """

    url: str
    token: str | SealedToken | None = field(repr=False)
    is_trusted: bool
    public_url: str | None = None

    @property
    def api_key(self) -> str | None:
        """The token, decrypted.

        Raises:
            SecretKeyError: it was encrypted with another key.
        """
        sealed = self.token
        if not isinstance(sealed, SealedToken):
            return sealed
        return _decrypted(sealed.stored, sealed.keys, sealed.data_dir)


def label_studio_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Address and token from `lorabel connect`, else from the settings, else from the last `/setup` request.

    Returns:
        None if none of the three names an address.
    """
    public_url = project.hostname if project.hostname and is_web_address(project.hostname) else None
    if project.label_studio_url:
        return LabelStudioAccess(project.label_studio_url, _token(project.api_key, settings), True, public_url)
    key = settings.label_studio_api_key
    if settings.label_studio_url:
        token = key.get_secret_value() if key else _token(project.setup_token, settings)
        return LabelStudioAccess(settings.label_studio_url, token, True, public_url)
    if public_url is not None:
        return LabelStudioAccess(public_url, _token(project.setup_token, settings), False, public_url)
    return None


def _token(stored: str | None, settings: Settings) -> str | SealedToken | None:
    if stored is None or not is_sealed(stored):
        return stored
    key = settings.lorabel_secret_key
    return SealedToken(stored, None if key is None else key.get_secret_value(), settings.data_dir)


@lru_cache(MOST_TOKENS)
def _decrypted(stored: str, keys: str | None, data_dir: Path) -> str:
    """Kept, since every prediction needs it. Under other keys a token is stored differently."""
    return Keyring.of_parts(keys, data_dir).open(stored)


def task_link(project: Project, url: str, task_id: int) -> str:
    """The address of a task in the Data Manager of the Label Studio at `url`."""
    return f"{data_manager_link(project, url)}?task={task_id}"


def data_manager_link(project: Project, url: str) -> str:
    """The address of a project's Data Manager in the Label Studio at `url`."""
    return f"{url.rstrip('/')}/projects/{project.label_studio_id}/data"


def is_web_address(text: str) -> bool:
    """Whether a text is the address of a web server: http or https, a host, and a port that exists if any."""
    return len(text) <= LONGEST_ADDRESS and _is_web_address(text)


@lru_cache(maxsize=1024)
def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(ascii_url(text))
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (UnreadableError, ValueError):
        return False


def api_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Access to Label Studio's API: a trusted address with a token. None if there is no such access."""
    access = label_studio_access(project, settings)
    return access if access is not None and access.is_trusted and access.token else None


def require_api_access(
    project: Project, settings: Settings, consequence: str = "predictions cannot be written back"
) -> LabelStudioAccess:
    """Access to Label Studio's API, as `api_access` gives it.

    Args:
        consequence: what is impossible without a token, for the error message.

    Raises:
        ConflictError: there is no token for the project's Label Studio, or nobody vouched for its address.
    """
    access = api_access(project, settings)
    if access is None:
        raise ConflictError(
            f"project {project.id}: {consequence} without a token for its Label Studio; "
            "connect it with `lorabel connect`, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
        )
    return access


def resolve_media(media: MediaRef, access: LabelStudioAccess | None, authorization: str | None) -> MediaRef:
    """Turn an address from task data into one that can be fetched.

    A relative address is completed with Label Studio's. Only an address under which Label Studio serves media gets
    the token, since the token opens the whole API.

    Args:
        authorization: value of the Authorization header for Label Studio; None if there is no token.

    Raises:
        UnreadableError: the address is not a valid URL.
    """
    if access is None or is_data_url(media.url):
        return media
    folder, slash, name = media.url.rpartition("/")
    # After two slashes comes the name of a host, and what comes after # is left out.
    is_folder = bool(slash) and not folder.endswith("/") and not _BEYOND_PATH.search(folder)
    if is_folder and len(folder) <= LONGEST_ADDRESS and PLAIN_NAME.fullmatch(name):
        address = _address_in_folder(folder, access)
        url = "" if address is None else address.url.removesuffix(SAMPLE_NAME) + name
    else:
        address = _address(media.url, access)
        url = "" if address is None else address.url
    if address is None:
        return media
    return MediaRef(
        url=url,
        authorization=authorization if address.has_token else None,
        is_trusted=access.is_trusted,
        is_label_studio=True,
    )


@dataclass(frozen=True)
class _Address:
    """An address of Label Studio. `has_token`: it gets the token."""

    url: str
    has_token: bool


@lru_cache(maxsize=4096)
def _address_in_folder(folder: str, access: LabelStudioAccess) -> _Address | None:
    """The address of SAMPLE_NAME in the folder. The tasks of a project have their files in few folders."""
    return _address(f"{folder}/{SAMPLE_NAME}", access)


def _address(written: str, access: LabelStudioAccess) -> _Address | None:
    """Where an address of task data leads to; None if that is not Label Studio."""
    written_url = ascii_url(written)
    url = ascii_url(urljoin(access.url.rstrip("/") + "/", written_url))
    own_url = _own_media_url(url, access, is_relative=not urlsplit(written_url).netloc)
    if own_url is None and origin(url) != origin(access.url):
        return None
    return _Address(own_url or url, own_url is not None)


def _own_media_url(url: str, access: LabelStudioAccess, *, is_relative: bool) -> str | None:
    """The address under which this machine gets what Label Studio serves there; None if that is not its media.

    Label Studio writes its path prefix into some addresses of media and not into others, and its public address
    into those of local files.
    """
    known_urls = [known for known in (access.url, access.public_url) if known]
    bases = {_path(known) for known in known_urls if is_relative or origin(known) == origin(url)}
    base = media_base(url)
    if base is None or base not in (bases | {""} if is_relative else bases):
        return None
    parts, root = urlsplit(url), urlsplit(access.url)
    path = _path(access.url) + parts.path.removeprefix(base)
    return urlunsplit((root.scheme, root.netloc, path, parts.query, ""))


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/")
