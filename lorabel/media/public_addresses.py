"""Which network addresses are public. Media of strangers is fetched from no others."""

import ipaddress
import socket

import httpcore

# IPv6 addresses outside of this block are local to a network, or stand for IPv4 addresses.
# https://www.iana.org/assignments/ipv6-address-space/ipv6-address-space.xhtml
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Blocks whose last 32 bits are an IPv4 address: NAT64 (RFC 6052), mapped and compatible addresses (RFC 4291),
# translated addresses (RFC 2765).
IPV4_BLOCKS = tuple(
    ipaddress.IPv6Network(block) for block in ("64:ff9b::/96", "::ffff:0:0/96", "::/96", "::ffff:0:0:0/96")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenAddressError(Exception):
    """A stranger's URL leads to an address that is not public."""


def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host; all its addresses must be public.

    Returns:
        The addresses in the order in which they should be tried; at least one.

    Raises:
        ForbiddenAddressError: an address of the host is not public.
        httpcore.ConnectError: the host cannot be resolved.
    """
    addresses = resolved(host, port)
    for address in addresses:
        if not is_public(ipaddress.ip_address(address.split("%")[0])):
            raise ForbiddenAddressError(
                f"media host {host!r} is at {address}, which is not public; "
                f"add {host}:{port} to MEDIA_ALLOWED_HOSTS if it is yours"
            )
    return addresses


def resolved(host: str, port: int) -> list[str]:
    """All addresses of a host, each once.

    Raises:
        httpcore.ConnectError: the host cannot be resolved.
    """
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise httpcore.ConnectError(f"host {host!r} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def is_public(address: Address) -> bool:
    """Whether the address is public, and the IPv4 address too that it stands for in a translating network."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if any(address in block for block in IPV4_BLOCKS):
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    is_usual = address in GLOBAL_UNICAST and address.is_global
    return is_usual and (address.sixtofour is None or is_public(address.sixtofour))
