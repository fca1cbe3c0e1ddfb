"""A certificate authority of the tests' own, made by the openssl command."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.skipped import skip_or_fail

EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """`certificate` is what clients must trust."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def certify(self, *names: str) -> Path:
        """A PEM file with a key and its certificate for these names, for localhost and for 127.0.0.1."""
        key, pem = self.folder / "server.key", self.folder / "server.pem"
        alternatives = ",".join(["IP:127.0.0.1", "DNS:localhost", *(f"DNS:{name}" for name in names)])
        issuer = ("-CA", str(self.certificate), "-CAkey", str(self.folder / "authority.key"))
        _certify("server", key, pem, *issuer, "-addext", f"subjectAltName={alternatives}")
        pem.write_text(key.read_text() + pem.read_text())
        return pem


def make_authority(folder: Path) -> Authority:
    """Make an authority. Skips the test, or with CI=true fails it, if there is no openssl command."""
    if shutil.which("openssl") is None:
        skip_or_fail("openssl is not installed: apt-get install openssl")
    authority = Authority(folder)
    _certify("authority", folder / "authority.key", authority.certificate)
    return authority


def server_context(pem: Path) -> ssl.SSLContext:
    """The context of a TLS server with this key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def _certify(name: str, key: Path, certificate: Path, *options: str) -> None:
    is_authority = "FALSE" if options else "TRUE"
    command = ["openssl", "req", "-x509", *EC_KEY, "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", f"basicConstraints=critical,CA:{is_authority}"]
    subprocess.run([*command, *options], capture_output=True, check=True)
