"""Stand-ins for machines: network namespaces that reach each other only over cables (veth pairs).

https://man7.org/linux/man-pages/man7/network_namespaces.7.html. The processes of a namespace have their own
loopback, so processes of two namespaces share neither 127.0.0.1 nor abstract socket names. They share files, so
DATA_DIR is a folder that all machines see. Needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NETWORK = "10.213.0.0/16"


class NotPermittedError(Exception):
    """Network namespaces cannot be made here; the message says why."""


@dataclass(frozen=True)
class Machine:
    """A network namespace with a cable to the host, on which the tests run.

    Args:
        cable: the host's network interface of the cable.
        host: the host's address at its end of the cable.
        address: the namespace's address.
    """

    name: str
    cable: str
    host: str
    address: str

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` in the namespace."""
        return ["ip", "netns", "exec", self.name, *argv]

    def unplug(self) -> None:
        """Cut the connection between the namespace and the host."""
        _ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Restore the connection."""
        _ip("link", "set", self.cable, "up")


@contextmanager
def machine(number: int) -> Iterator[Machine]:
    """Make a machine with a cable to the host, and remove both at the end.

    Args:
        number: 1 to 255, different for machines that exist at the same time.

    Raises:
        NotPermittedError: the kernel or the container forbids it, or the program `ip` is missing.
    """
    if shutil.which("ip") is None:
        raise NotPermittedError("the program `ip` is missing: apt-get install iproute2")
    name = f"lorabel-{os.getpid()}-{number}"
    new_machine = Machine(name, f"lrb{os.getpid() % 100_000}-{number}", f"10.213.{number}.1", f"10.213.{number}.2")
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        raise NotPermittedError(f"ip netns add: {error.stderr.strip()}") from error
    try:
        try:
            _ip("link", "add", new_machine.cable, "type", "veth", "peer", "name", "cable", "netns", name)
        except subprocess.CalledProcessError as error:
            raise NotPermittedError(f"ip link add: {error.stderr.strip()}") from error
        _ip("address", "add", f"{new_machine.host}/30", "dev", new_machine.cable)
        new_machine.plug_in()
        _ip("-n", name, "address", "add", f"{new_machine.address}/30", "dev", "cable")
        _ip("-n", name, "link", "set", "cable", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield new_machine
    finally:
        # This removes the cable, too.
        _ip("netns", "delete", name)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
