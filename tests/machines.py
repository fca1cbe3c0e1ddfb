"""Machines as network namespaces of this one: nothing reaches another but over a cable (a veth pair).

https://man7.org/linux/man-pages/man7/network_namespaces.7.html. Processes in one have a loopback of their own, so
whatever they share by 127.0.0.1 or by a socket's name is not shared here. Files are: DATA_DIR is a folder that all
machines see. Needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NETWORK = "10.213.0.0/16"


class NotPermittedError(Exception):
    """No namespace can be made here; the message says why."""


@dataclass(frozen=True)
class Machine:
    """`host`: this machine's address at the other end of its cable; `address`: its own."""

    name: str
    cable: str
    host: str
    address: str

    def command(self, *argv: str) -> list[str]:
        """The same command, run on that machine."""
        return ["ip", "netns", "exec", self.name, *argv]

    def unplug(self) -> None:
        _ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        _ip("link", "set", self.cable, "up")


@contextmanager
def machine(number: int) -> Iterator[Machine]:
    """One machine with a cable to this one; `number` is 1 to 255.

    Raises:
        NotPermittedError: by the kernel, by this container, or for want of `ip`.
    """
    if shutil.which("ip") is None:
        raise NotPermittedError("there is no `ip`: apt-get install iproute2")
    name = f"lorabel-{os.getpid()}-{number}"
    made = Machine(name, f"lrb{os.getpid() % 100_000}-{number}", f"10.213.{number}.1", f"10.213.{number}.2")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        raise NotPermittedError(f"ip netns add: {error.stderr.strip()}") from error
    try:
        try:
            _ip("link", "add", made.cable, "type", "veth", "peer", "name", "cable", "netns", name)
        except subprocess.CalledProcessError as error:
            raise NotPermittedError(f"ip link add: {error.stderr.strip()}") from error
        _ip("address", "add", f"{made.host}/30", "dev", made.cable)
        made.plug_in()
        _ip("-n", name, "address", "add", f"{made.address}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        # The cable goes with it.
        _ip("netns", "delete", name)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
