"""Certificates and proxies for outgoing connections, from the variables that other programs read too; and the
certificates of our own ports.

SSL_CERT_FILE and REQUESTS_CA_BUNDLE name certificate authorities, which are trusted beside the public ones.
HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read as curl and Python read them; this machine itself is never
reached through a proxy.
"""

import ipaddress
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import httpx

from lorabel.errors import SettingsError
from lorabel.settings import certificate_files

PROXY_SCHEMES = ("http", "https")


def tls_context() -> ssl.SSLContext:
    """A context that trusts the system's and certifi's authorities, and those that the environment names.

    Raises:
        SettingsError: a variable names a file that cannot be read.
    """
    return _context(tuple(certificate_files().items()))


@lru_cache(maxsize=4)
def _context(files: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    """Cached, since it takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    for variable, name in files:
        is_folder = Path(name).is_dir()
        try:
            context.load_verify_locations(None if is_folder else name, name if is_folder else None)
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            raise SettingsError(
                f"{variable} is {name!r}, which cannot be read ({error}); expected certificates in PEM format"
            ) from error
    return context


def server_tls(certificate: Path | str, key: Path | str | None) -> ssl.SSLContext:
    """A context for a port of ours. Clients need no certificate.

    Args:
        certificate: PEM file; the certificates between it and its authority come after it.
        key: PEM file; None if the key is in the same file.

    Raises:
        SettingsError: a file cannot be read, or the key is not the certificate's.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION

    def refuse_to_ask() -> str:
        raise SettingsError(f"the key in {key or certificate} is encrypted; expected one without a password")

    try:
        context.load_cert_chain(certificate, key, password=refuse_to_ask)
    except OSError as error:  # an ssl.SSLError is an OSError
        files = str(certificate) if key is None else f"{certificate} with the key {key}"
        raise SettingsError(
            f"TLS cannot use {files} ({error}); expected a certificate in PEM format and its key"
        ) from error
    return context


def tls_remedy(error: Exception) -> str | None:
    """What to do about a connection that failed for TLS; None if it failed for something else."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        if "ostname mismatch" in text or "IP address mismatch" in text:
            return "its certificate is for another name: use an address with a name that is in the certificate"
        if "expired" in text or "not yet valid" in text:
            return "renew its certificate, or correct the clock of this machine"
        return "SSL_CERT_FILE can name the certificate of its authority, as a PEM file"
    if "WRONG_VERSION_NUMBER" in text:
        return "nothing speaks TLS there: write http:// instead of https://"
    return None


def client_options(url: str) -> dict[str, Any]:
    """Arguments of httpx for requests to a URL. `trust_env` is off, since it also takes logins from ~/.netrc."""
    tls, proxy = tls_context(), proxy_for(url)
    tls_to_proxy = tls if proxy is not None and urlsplit(proxy).scheme == "https" else None
    return {
        "verify": tls,
        "proxy": None if proxy is None else httpx.Proxy(proxy, ssl_context=tls_to_proxy),
        "trust_env": False,
    }


def proxy_for(url: str) -> str | None:
    """The address of the proxy through which a URL is reached; None if it is reached directly.

    Raises:
        SettingsError: the proxy is of a kind that is not supported, or its address is wrong.
    """
    parts = urlsplit(url)
    host, proxies = parts.hostname or "", getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or _is_this_machine(host) or proxy_bypass_environment(f"{host}:{parts.port or ''}", proxies):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    named = f"the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) names a proxy for {parts.scheme} addresses"
    try:
        address = urlsplit(proxy)
        has_address = bool(address.hostname) and address.port != 0
    except ValueError:
        has_address = False
    if not has_address:
        # The address is not shown, since it can have a password.
        raise SettingsError(f"{named} whose address cannot be read; expected http://host:port")
    if address.scheme not in PROXY_SCHEMES:
        raise SettingsError(f"{named} of the kind {address.scheme!r}; expected http:// or https://")
    return proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
