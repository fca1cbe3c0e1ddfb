"""Label Studio and media behind a private certificate authority and behind proxies, over real TLS."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lorabel.contracts import MediaRef
from lorabel.errors import LabelStudioError, SettingsError, UnreadableError
from lorabel.label_studio.client import LabelStudio
from lorabel.media import public_addresses
from lorabel.media.fetching import Fetcher
from lorabel.network import proxy_for, tls_context
from lorabel.settings import Settings
from tests.certificates import Authority, make_authority, server_context
from tests.connect_proxy import ConnectProxy, proxy_to
from tests.lorabel.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serve

PUBLIC_IP = "93.184.216.34"
VERSION = b'{"release": "1.23.2"}'
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pem(authority: Authority) -> Path:
    return authority.certify("media.test", "label-studio.test")


@pytest.fixture
def server(pem: Path) -> Iterator[FakeLabelStudio]:
    """Label Studio with a certificate of the private authority."""
    fake = FakeLabelStudio()
    with serve(fake, server_context(pem)):
        yield fake


@pytest.fixture
def proxy(server: FakeLabelStudio) -> Iterator[ConnectProxy]:
    with proxy_to(urlsplit(server.url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


def resolve(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    """Resolve names to addresses. The resolver is a double, since no name of this machine has a public address."""
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *args: object, **options: object) -> object:
        return real(addresses.get(host.replace(".", "_"), host), port, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(public_addresses.socket, "getaddrinfo", lookup)


def email(url: str) -> str:
    with LabelStudio(url, PERSONAL_TOKEN, timeout_s=5.0) as label_studio:
        return label_studio.email()


def fetch(url: str, settings: Settings, *, is_trusted: bool = False) -> bytes:
    fetcher = Fetcher(settings)
    try:
        return fetcher.fetch(MediaRef(url=url, is_trusted=is_trusted))
    finally:
        fetcher.close()


@pytest.mark.parametrize("variable", VARIABLES)
def test_label_studio_and_its_media_are_reached_with_a_private_authority(
    server: FakeLabelStudio,
    authority: Authority,
    settings: Settings,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(authority.certificate))
    assert email(server.url) == "annotator@example.com"
    assert fetch(f"{server.url}/api/version", settings, is_trusted=True) == VERSION


def test_without_the_authority_the_error_says_which_variable_names_it(server: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
        email(server.url)
    assert server.requests == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_names_no_certificates_is_said(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "missing.pem"))
    with pytest.raises(SettingsError, match=rf"{variable} is '.*missing.pem', which cannot be read"):
        tls_context()


@pytest.mark.usefixtures("trusted")
def test_label_studio_is_reached_through_a_proxy(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:hun%20ter@"))
    assert email("https://label-studio.test") == "annotator@example.com"
    assert set(proxy.targets) == {"label-studio.test:443"}
    assert set(proxy.logins) == {"Basic bWU6aHVuIHRlcg=="}


@pytest.mark.usefixtures("trusted")
def test_public_media_come_through_a_proxy_from_the_address_that_was_checked(
    proxy: ConnectProxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy does not resolve the name again, and the certificate is checked against the name."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:hun%20ter@"))
    resolve(monkeypatch, media_test=PUBLIC_IP, other_test=PUBLIC_IP)
    assert fetch("https://media.test/api/version", settings) == VERSION
    assert proxy.targets == [f"{PUBLIC_IP}:443"]
    assert proxy.logins == ["Basic bWU6aHVuIHRlcg=="]
    with pytest.raises(UnreadableError, match="certificate is not valid for"):
        fetch("https://other.test/api/version", settings)


def test_media_without_tls_come_through_a_proxy_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLabelStudio()
    with serve(fake), proxy_to(urlsplit(fake.url).port or 0) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        resolve(monkeypatch, media_test=PUBLIC_IP)
        assert fetch("http://media.test:8000/api/version", settings) == VERSION
        assert proxy.targets == [f"{PUBLIC_IP}:8000"]


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "169.254.169.254"])
def test_a_proxy_is_not_asked_for_a_private_address(
    proxy: ConnectProxy, settings: Settings, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    resolve(monkeypatch, media_test=address)
    for url in ("https://media.test/a", f"https://{address}/a"):
        with pytest.raises(UnreadableError, match=f"at {address}, which is not public"):
            fetch(url, settings)
    assert proxy.targets == []


def test_a_redirect_to_a_private_address_is_refused_behind_a_proxy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeLabelStudio()
    fake.redirects["/away"] = "https://metadata.test/latest"
    with serve(fake), proxy_to(urlsplit(fake.url).port or 0) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        resolve(monkeypatch, media_test=PUBLIC_IP, metadata_test="169.254.169.254")
        with pytest.raises(UnreadableError, match=r"169\.254\.169\.254, which is not public"):
            fetch("http://media.test/away", settings)
        assert proxy.targets == [f"{PUBLIC_IP}:80"]


@pytest.mark.usefixtures("trusted")
def test_an_allowed_host_is_resolved_by_the_proxy(
    proxy: ConnectProxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names of other networks are only known to the proxy."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(UnreadableError, match=r"media\.test.* cannot be resolved.*MEDIA_ALLOWED_HOSTS"):
        fetch("https://media.test/api/version", settings)
    allowed = settings.model_copy(update={"media_allowed_hosts": "media.test"})
    assert fetch("https://media.test/api/version", allowed) == VERSION
    assert proxy.targets == ["media.test:443"]


@pytest.mark.usefixtures("trusted")
def test_the_proxy_itself_may_have_a_certificate_of_the_authority(
    server: FakeLabelStudio, pem: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, media_test=PUBLIC_IP)
    with proxy_to(urlsplit(server.url).port or 0, pem=pem) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert email("https://label-studio.test") == "annotator@example.com"
        assert fetch("https://media.test/api/version", settings) == VERSION
        assert set(proxy.targets) == {"label-studio.test:443", f"{PUBLIC_IP}:443"}


def test_a_proxy_that_refuses_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_to(1, status=403) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        resolve(monkeypatch, media_test=PUBLIC_IP)
        refused = rf"the proxy 127\.0\.0\.1 refuses a connection to {PUBLIC_IP} at port 443 \(status 403\)"
        with pytest.raises(UnreadableError, match=refused):
            fetch("https://media.test/a", settings)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://label-studio.example/a", "http://proxy.test:3128"),
        ("http://label-studio.example/a", None),
        ("https://127.0.0.1:8080", None),
        ("https://[::1]:8080", None),
        ("https://localhost", None),
        ("https://ls.internal.test", None),
        ("https://ls.internal.test.example", "http://proxy.test:3128"),
        ("https://ls.example:8443", None),
    ],
)
def test_which_addresses_are_reached_through_a_proxy(
    url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "internal.test, ls.example:8443")
    assert proxy_for(url) == expected


@pytest.mark.parametrize(
    ("proxy", "finding"),
    [
        ("socks5://me:secret@proxy.test", "for https addresses of the kind 'socks5'; expected http"),
        ("http://me:secret@proxy.test:none", "for https addresses whose address cannot be read"),
        ("http://", "for https addresses whose address cannot be read"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_at_the_start_and_without_its_password(
    proxy: str, finding: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for start in (lambda: Fetcher(settings), lambda: LabelStudio("https://label-studio.example", PERSONAL_TOKEN)):
        with pytest.raises(SettingsError, match=finding) as raised:
            start()
        assert "secret" not in str(raised.value)
