"""The address and token of a project's Label Studio, and which media addresses they apply to."""

from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import ConflictError, UnreadableError
from lorabel.media.fetching import ascii_url, origin
from lorabel.media.label_studio_paths import media_base
from lorabel.settings import Settings


@dataclass(frozen=True)
class LabelStudioAccess:
    """Address of a project's Label Studio and the token for it.

    Attributes:
        api_key: a personal access token or a legacy token; None if there is none.
        is_trusted: whether the operator named the address, by a setting or with `lorabel connect`. The address
            that `/setup` carries is not trusted, because nobody has checked it: media there must be at public
            addresses like any other.
    """

    url: str
    api_key: str | None
    is_trusted: bool


def label_studio_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Address and token from `lorabel connect`, else from the settings, else from the last `/setup` request.

    Returns:
        None if none of the three names an address.
    """
    if project.label_studio_url:
        return LabelStudioAccess(project.label_studio_url, project.api_key, is_trusted=True)
    key = settings.label_studio_api_key
    if settings.label_studio_url:
        token = key.get_secret_value() if key else project.setup_token
        return LabelStudioAccess(settings.label_studio_url, token, is_trusted=True)
    if project.hostname and is_web_address(project.hostname):
        return LabelStudioAccess(project.hostname, project.setup_token, is_trusted=False)
    return None


def is_web_address(text: str) -> bool:
    """Whether a text is the address of a web server: http or https, a host, and a port that exists if any."""
    try:
        parts = urlsplit(ascii_url(text))
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (UnreadableError, ValueError):
        return False


def api_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Access to Label Studio's API: a trusted address with a token. None if there is no such access."""
    access = label_studio_access(project, settings)
    return access if access is not None and access.is_trusted and access.api_key else None


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

    A relative address is completed with Label Studio's. Only an address at Label Studio's origin under which it
    serves media gets the token, since the token opens the whole API.

    Args:
        authorization: value of the Authorization header for Label Studio; None if there is no token.

    Raises:
        UnreadableError: the address is not a valid URL.
    """
    if access is None or media.url.startswith("data:"):
        return media
    url = ascii_url(urljoin(access.url.rstrip("/") + "/", ascii_url(media.url)))
    if origin(url) != origin(access.url):
        return media
    is_media = media_base(url) in ("", urlsplit(access.url).path.rstrip("/"))
    return MediaRef(
        url=url,
        authorization=authorization if is_media else None,
        is_trusted=access.is_trusted,
        is_label_studio=True,
    )
