"""Tunnels through an HTTP proxy (CONNECT, RFC 9110, section 9.3.6)."""

import base64
import ssl
from urllib.parse import SplitResult, unquote

import h11
import httpcore

READ_BYTES = 4096


def open_tunnel(
    stream: httpcore.NetworkStream,
    proxy: SplitResult,
    host: str,
    port: int,
    timeout: float | None,
    tls: ssl.SSLContext,
) -> httpcore.NetworkStream:
    """Have a proxy connect to a host, which may be an address.

    Args:
        stream: connected to the proxy.
        proxy: the proxy's address, which may have a user and a password.
        tls: for proxies that are reached by https.

    Returns:
        A stream to the host.

    Raises:
        httpcore.ConnectError: the proxy refuses, or does not speak HTTP.
    """
    try:
        if proxy.scheme == "https":
            stream = stream.start_tls(tls, proxy.hostname, timeout)
        status = _connect(stream, proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", timeout)
        if not 200 <= status < 300:
            raise httpcore.ConnectError(
                f"the proxy {proxy.hostname} refuses a connection to {host} at port {port} (status {status})"
            )
    except BaseException:
        stream.close()
        raise
    return stream


def _connect(stream: httpcore.NetworkStream, proxy: SplitResult, target: str, timeout: float | None) -> int:
    """Send the request. Returns the status of the answer, whose header is read and no more."""
    headers = [("Host", target)]
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(login.encode()).decode()}"))
    connection = h11.Connection(h11.CLIENT)
    try:
        request = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
        stream.write((request or b"") + (connection.send(h11.EndOfMessage()) or b""), timeout)
        while not isinstance(event := connection.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                connection.receive_data(stream.read(READ_BYTES, timeout))
    except h11.ProtocolError as error:
        # The error itself quotes the answer.
        raise httpcore.ConnectError(f"the proxy {proxy.hostname} does not answer in HTTP") from error
    return event.status_code
