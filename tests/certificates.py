"""A certificate authority of the tests' own."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """`certificate` is what clients must trust."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def certify(self, *names: str, is_local: bool = True, is_expired: bool = False) -> Path:
        """A PEM file with a key and its certificate for these names, and by default for this machine's own."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = serialization.load_pem_private_key((self.folder / "authority.key").read_bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        if is_local:
            alternatives += [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = _builder("server", "authority", key, is_expired).add_extension(
            x509.SubjectAlternativeName(alternatives), critical=False
        )
        pem = self.folder / f"server-{'-'.join(names)}-{is_local}-{is_expired}.pem"
        pem.write_bytes(_key_bytes(key) + _signed(builder, issuer_key, is_authority=False))
        return pem


def make_authority(folder: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority(folder)
    (folder / "authority.key").write_bytes(_key_bytes(key))
    builder = _builder("authority", "authority", key, is_expired=False)
    authority.certificate.write_bytes(_signed(builder, key, is_authority=True))
    return authority


def server_context(pem: Path) -> ssl.SSLContext:
    """The context of a TLS server with this key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, is_expired: bool
) -> x509.CertificateBuilder:
    begin = datetime.datetime.now(datetime.UTC) - (3 if is_expired else 1) * DAY
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + 2 * DAY)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> bytes:
    limits = x509.BasicConstraints(ca=is_authority, path_length=None)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    usage = x509.KeyUsage(not is_authority, *[False] * 4, is_authority, is_authority, False, False)
    builder = builder.add_extension(limits, critical=True).add_extension(issuer, critical=False)
    builder = builder.add_extension(usage, critical=True)
    if is_authority:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
