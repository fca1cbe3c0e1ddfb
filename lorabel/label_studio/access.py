"""Which address and which token reach a project's Label Studio, and what they mean for a media URL."""

from dataclasses import dataclass
from urllib.parse import urljoin

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.media.fetching import ascii_url, origin
from lorabel.settings import Settings


@dataclass(frozen=True)
class LabelStudioAccess:
    """Where a project's Label Studio is and with which token it lets us in.

    `is_trusted`: the operator named the address (by setting or `lorabel connect`). The host name that
    `/setup` carries was not checked by anyone: media there must be at public addresses like any other.
    """

    url: str
    api_key: str | None
    is_trusted: bool


def label_studio_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """What `lorabel connect` stored for the project, else the settings, else what `/setup` said."""
    if project.label_studio_url:
        return LabelStudioAccess(project.label_studio_url, project.api_key, is_trusted=True)
    key = settings.label_studio_api_key
    if settings.label_studio_url:
        token = key.get_secret_value() if key else project.setup_token
        return LabelStudioAccess(settings.label_studio_url, token, is_trusted=True)
    if project.hostname:
        return LabelStudioAccess(project.hostname, project.setup_token, is_trusted=False)
    return None


def api_access(project: Project, settings: Settings) -> LabelStudioAccess | None:
    """Access to Label Studio's API: with a token, at an address that the operator named; else None."""
    access = label_studio_access(project, settings)
    return access if access is not None and access.is_trusted and access.api_key else None


def resolve_media(media: MediaRef, access: LabelStudioAccess | None, authorization: str | None) -> MediaRef:
    """A URL as it stands in task data -> one that can be fetched; the token goes to Label Studio's origin only.

    Args:
        authorization: the header's value for Label Studio (`Bearer ...` or `Token ...`), if there is one.

    Raises:
        UnreadableError: the URL is none.
    """
    if access is None or media.url.startswith("data:"):
        return media
    url = ascii_url(urljoin(access.url.rstrip("/") + "/", ascii_url(media.url)))
    if origin(url) != origin(access.url):
        return media
    return MediaRef(url=url, authorization=authorization, is_trusted=access.is_trusted)
