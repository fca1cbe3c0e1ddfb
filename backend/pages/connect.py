"""The pages that connect projects: a Label Studio's address and token, its projects, and what is found."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import request, url_for
from sqlalchemy import select
from werkzeug.datastructures import MultiDict

from backend.http_bodies import LARGEST_ID
from backend.pages.connections import MOST_PROJECTS, Connecting, ConnectingProject
from backend.pages.label_configs import Served, read_served
from backend.pages.paging import LAST_PAGE, PER_PAGE, Page
from backend.project_routes import read_number
from backend.services import Services, services
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.tables import Project
from lorabel.errors import BadRequestError, LorabelError
from lorabel.label_studio.access import api_access, is_web_address
from lorabel.label_studio.access_token import read_claims
from lorabel.label_studio.address import checked_address, split_page
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_list import ListedProject, list_projects
from lorabel.label_studio.server_version import require_version
from lorabel.media.fetching import origin
from lorabel.settings import Settings

TIMEOUT_S = 5.0
# Nothing else can be in a header, and a token is nothing else.
TOKEN = re.compile(r"[\x21-\x7e]{10,4000}")
LEGACY_TOKEN = re.compile(r"[0-9a-fA-F]{40}")
LONGEST_SEARCH = 200
THIS_MACHINE = ("localhost",)


@dataclass(frozen=True)
class Form:
    """What the form shows.

    Attributes:
        url: Label Studio's address.
        backend_url: our address as Label Studio sees it.
        fault: why what was sent was not taken; empty if nothing was sent.
        is_read_by_others: whether the network between the browser and us could read the token.
    """

    url: str
    backend_url: str
    fault: str
    is_read_by_others: bool


@dataclass(frozen=True)
class Choice:
    """A project that can be chosen. `connected`: it is connected already, as this project."""

    project: ListedProject
    served: Served
    connected: Project | None


@dataclass(frozen=True)
class Choosing:
    """What can be chosen. `fault`: why the projects are not known."""

    connecting: Connecting
    version: str
    email: str
    total: int
    search: str
    choices: Page[Choice]
    fault: str


def read_form(app_services: Services, fault: str = "") -> Form:
    """Read what the form shows: what was sent, else what the settings and the connected projects say."""
    sent = request.form if request.method == "POST" else request.args
    settings = app_services.settings
    with app_services.store.read() as session:
        connected = session.scalar(
            select(Project)
            .where(Project.is_deleted.is_(False), Project.label_studio_url.is_not(None))
            .order_by(Project.updated_at.desc())
            .limit(1)
        )
    url = settings.label_studio_url or (connected.label_studio_url if connected else None) or ""
    typed = sent.get("url", "")
    return Form(
        "" if _is_token(typed) else typed or url,
        sent.get("backend_url", "") or (connected and connected.backend_url) or default_address(settings),
        fault,
        not (request.is_secure or is_at_this_machine()),
    )


def is_connected(project: Project) -> bool:
    """Whether there is a token for the project's Label Studio."""
    return api_access(project, services().settings) is not None


def connect_link(project: Project) -> str:
    """The address of the page on which a project can be connected."""
    url = project.label_studio_url or project.hostname
    page = f"{url.rstrip('/')}/projects/{project.label_studio_id}" if url and is_web_address(url) else None
    return url_for("pages.connect.show_connect", url=page)


def default_address(settings: Settings) -> str:
    """The backend's address on this machine."""
    from lorabel.commands.connect import default_backend_url

    return default_backend_url(settings)


def begin(app_services: Services) -> Connecting:
    """Check an address and a token that were sent, and keep them.

    Raises:
        LorabelError: they are wrong, or Label Studio does not take them; the message says what to do.
    """
    typed = request.form.get("url", "")
    if _is_token(typed):
        raise BadRequestError("the token stands in the field of the address; write http://... there")
    base, suggested = split_page(typed)
    if not base:
        raise BadRequestError("write the address of Label Studio, for example http://localhost:8080")
    url = checked_address(base, "the address of Label Studio")
    typed_backend = request.form.get("backend_url", "").strip() or default_address(app_services.settings)
    backend_url = checked_address(typed_backend, "the address of Lorabel")
    token = request.form.get("token", "").strip()
    if not TOKEN.fullmatch(token):
        raise BadRequestError(
            "this is no token; copy it from Label Studio, Account & Settings, Personal Access Token"
            if token
            else "the token is missing; Label Studio shows it under Account & Settings, Personal Access Token"
        )
    require_trust(app_services, url)
    with LabelStudio(url, None, TIMEOUT_S) as anonymous:
        require_version(anonymous)
    with LabelStudio(url, token, TIMEOUT_S) as label_studio:
        label_studio.email()
    return app_services.connections.add(url, token, backend_url, suggested)


def require_trust(app_services: Services, url: str) -> None:
    """Refuse to send requests to an address that no operator has named.

    A connected Label Studio is trusted: media are fetched from it also at private addresses. Whoever has the
    password may say so, as with `lorabel connect`. So may who sits at this machine, where we listen on a loopback
    address only: what comes from elsewhere then comes through a proxy. Others may only name addresses that the
    settings or a connected project name.

    Raises:
        BadRequestError: the address is not trusted.
    """
    settings = app_services.settings
    is_local = _is_loopback(settings.host)
    if settings.basic_auth is not None or (is_local and is_at_this_machine()):
        return
    with app_services.store.read() as session:
        known_urls = session.scalars(select(Project.label_studio_url).where(Project.label_studio_url.is_not(None)))
        origins = {origin(known) for known in known_urls if known}
    if settings.label_studio_url:
        origins.add(origin(settings.label_studio_url))
    if origin(url) not in origins:
        raise BadRequestError(
            f"{url} is not known here, and without a password anybody could name an address inside this network: "
            "set BASIC_AUTH_USER and BASIC_AUTH_PASS, or LABEL_STUDIO_URL; or "
            + (
                "open this page, without a proxy, or run `lorabel connect`, on the machine itself"
                if is_local
                else f"run `lorabel connect` on the machine itself (HOST={settings.host} lets others in)"
            )
        )


def is_at_this_machine() -> bool:
    """Whether the browser runs on this machine, and no proxy or foreign name is between."""
    is_proxied = any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"))
    host = request.host.rsplit(":", 1)[0].strip("[]")
    return not is_proxied and _is_loopback(request.remote_addr or "") and _is_loopback(host)


def read_choosing(app_services: Services, connecting: Connecting) -> Choosing:
    """Ask Label Studio which projects there are. What fails is said on the page.

    Raises:
        BadRequestError: the URL's `page` is no number.
    """
    search = request.args.get("title", "").strip()[:LONGEST_SEARCH]
    number = max(1, read_number("page", 1, LAST_PAGE))
    version = email = ""
    try:
        token = app_services.connections.token_of(connecting)
        with LabelStudio(connecting.url, token, TIMEOUT_S) as label_studio:
            version, email = label_studio.server().version, label_studio.email()
            listed = list_projects(label_studio, number, PER_PAGE, search)
    except LorabelError as error:
        return Choosing(connecting, version, email, 0, search, Page([], 1, False, "page"), str(error))
    connected = _connected(app_services, connecting.url, listed.projects)
    choices = [Choice(row, read_served(row.label_config), connected.get(row.id)) for row in listed.projects]
    page = Page(choices, number, number * PER_PAGE < listed.total, "page")
    return Choosing(connecting, version, email, listed.total, search, page, "")


def choose(app_services: Services, connecting: Connecting, form: "MultiDict[str, str]") -> None:
    """Connect the projects that were chosen.

    Raises:
        BadRequestError: none was chosen, or too many.
        LabelStudioError: one does not exist, or Label Studio does not answer.
        ConflictError: as `Connections.begin`.
    """
    typed = [number for number in form.getlist("project") if number]
    if not all(re.fullmatch("[0-9]{1,10}", number) and int(number) <= LARGEST_ID for number in typed):
        raise BadRequestError("a project is a number; it stands in the project's address, /projects/N/")
    numbers = list(dict.fromkeys(map(int, typed)))
    if not 0 < len(numbers) <= MOST_PROJECTS:
        raise BadRequestError(f"{len(numbers)} projects are chosen, expected 1 to {MOST_PROJECTS}")
    if connecting.is_begun:
        return
    with LabelStudio(connecting.url, app_services.connections.token_of(connecting), TIMEOUT_S) as label_studio:
        titles = {row.id: row.title for row in label_studio.titles([LabelStudioId(number) for number in numbers])}
    chosen = [
        ConnectingProject(label_studio_id=number, title=titles.get(number) or f"Project {number}")
        for number in numbers
    ]
    app_services.connections.begin(connecting, chosen, is_anyway="anyway" in form)


def _connected(app_services: Services, url: str, rows: Sequence[ListedProject]) -> Mapping[int, Project]:
    """Id in Label Studio -> the project here that is connected to it."""
    with app_services.store.read() as session:
        query = select(Project).where(
            Project.is_deleted.is_(False),
            Project.label_studio_url == url,
            Project.api_key.is_not(None),
            Project.label_studio_id.in_([row.id for row in rows]),
        )
        return {int(project.label_studio_id): project for project in session.scalars(query)}


def _is_token(text: str) -> bool:
    """Whether a token was written where something else is expected, which messages would quote."""
    text = text.strip()
    return bool(LEGACY_TOKEN.fullmatch(text) or read_claims(text))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in THIS_MACHINE
