"""Encrypts tokens before they are stored, so that a copy of the database opens no Label Studio.

The keys are those of Fernet (https://cryptography.io/en/latest/fernet/): AES-128 in CBC mode with HMAC. They are
in LORABEL_SECRET_KEY, comma-separated, or else in DATA_DIR/secret.key, a line each, which is made when it is first
needed. The first key encrypts, and each of them decrypts.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lorabel.errors import SecretKeyError
from lorabel.private_folders import make_private
from lorabel.settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

PREFIX = "fernet:"
FILE = "secret.key"
VARIABLE = "LORABEL_SECRET_KEY"


def new_key() -> str:
    """A new random key, in the form that LORABEL_SECRET_KEY takes."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def is_sealed(text: str) -> bool:
    """Whether a stored text is encrypted. Those that were stored before tokens were encrypted are not."""
    return text.startswith(PREFIX)


class Keyring:
    """Encrypts and decrypts. Thread-safe.

    Args:
        keys: the first one encrypts; none if they are in the file.
        file: where the keys are if `keys` is empty; made at the first encryption.
    """

    def __init__(self, keys: Sequence[str], file: Path | None) -> None:
        self._keys, self.file = tuple(keys), file

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The keys that the settings name. Reads no file yet.

        Raises:
            SecretKeyError: LORABEL_SECRET_KEY has something that is no key.
        """
        key = settings.lorabel_secret_key
        return cls.of_parts(None if key is None else key.get_secret_value(), settings.data_dir)

    @classmethod
    def of_parts(cls, keys: str | None, data_dir: Path) -> Self:
        """As `of`.

        Args:
            keys: the value of LORABEL_SECRET_KEY; None: they are in the file in `data_dir`.
        """
        if keys is None:
            return cls((), data_dir.absolute() / FILE)
        named = [key.strip() for key in keys.split(",") if key.strip()]
        for key in named or [""]:
            _check(key, VARIABLE)
        return cls(named, None)

    @classmethod
    def of_this_process(cls) -> Self:
        """A key that no other process has, for a database that is made and thrown away."""
        return cls((new_key(),), None)

    @property
    def origin(self) -> str:
        """Where the keys are, for people."""
        return VARIABLE if self.file is None else str(self.file)

    @property
    def is_missing(self) -> bool:
        """Whether there is no key yet, or none any more."""
        return self.file is not None and not self.file.exists()

    def require(self) -> None:
        """Check that there is a key, where something is encrypted already.

        Raises:
            SecretKeyError: the file is missing. A new one would decrypt nothing of what is stored.
        """
        if self.is_missing:
            raise SecretKeyError(f"a token is encrypted, and {self.file} with its key is missing; {_remedy(self)}")

    def seal(self, text: str) -> str:
        """Encrypt a text.

        Raises:
            SecretKeyError: the file of the key cannot be made, or has something that is no key.
        """
        if self.file is not None and not self.file.exists():
            _write_new(self.file, new_key())
        return PREFIX + self._fernet().encrypt(text.encode()).decode()

    def open(self, stored: str) -> str:
        """Decrypt a text; one that is not encrypted is returned as it is.

        Raises:
            SecretKeyError: it was encrypted with another key.
        """
        from cryptography.fernet import InvalidToken

        if not is_sealed(stored):
            return stored
        self.require()
        try:
            return self._fernet().decrypt(stored.removeprefix(PREFIX).encode()).decode()
        except InvalidToken:
            raise SecretKeyError(
                f"a token was encrypted with another key than {self.origin} has; {_remedy(self)}"
            ) from None

    def fits(self, stored: str | None, text: str | None) -> bool:
        """Whether a stored text is this one, encrypted so that it can be decrypted."""
        if not stored or not text:
            return stored == text
        try:
            return is_sealed(stored) and self.open(stored) == text
        except SecretKeyError:
            return False

    @contextmanager
    def rotation(self) -> Iterator[None]:
        """A block that encrypts everything anew, with a new key before those in the file; these go at its end.

        Other processes wait that rotate, too. If the block raises, all keys stay, and so do those that are in
        LORABEL_SECRET_KEY.

        Raises:
            SecretKeyError: the file cannot be read, written or locked.
        """
        if self.file is None:
            yield
            return
        with _locked(self.file):
            former = self._read()
            _replace(self.file, [new_key(), *former])
            yield
            _replace(self.file, [key for key in self._read() if key not in former])

    def check(self) -> str:
        """Check the keys, for `lorabel doctor`. Returns where they are.

        Raises:
            SecretKeyError: the file has something that is no key, or others may read it.
        """
        if self.file is None:
            return f"{len(self._keys)} in {VARIABLE}"
        if not self.file.exists():
            return f"{self.file} is made when the first token is stored"
        if self.file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SecretKeyError(f"others may read {self.file}; `chmod 600` it, then `lorabel keys rotate`")
        return f"{len(self._read())} in {self.file}; keep a copy beside your backups, not in them"

    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet

        # Read each time, so that a rotation needs no restart.
        return MultiFernet([Fernet(key) for key in self._keys or self._read()])

    def _read(self) -> list[str]:
        if self.file is None or not self.file.exists():
            return []
        try:
            keys = self.file.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretKeyError(f"{self.file} cannot be read: {error}; {_remedy(self)}") from error
        for key in keys:
            _check(key, str(self.file))
        if not keys:
            raise SecretKeyError(f"{self.file} is empty; {_remedy(self)}")
        return keys


def _remedy(keyring: Keyring) -> str:
    if keyring.file is None:
        return (
            f"add the former key to {VARIABLE}, comma-separated and after the new one, or run `lorabel connect` "
            "again for each project"
        )
    return (
        f"put the file back from where you keep its copy (or set {VARIABLE} to the key that was in use); if it is "
        f"lost, `lorabel keys new > {keyring.file}`, `chmod 600` it, and `lorabel connect` again for each project"
    )


def _check(key: str, origin: str) -> None:
    from cryptography.fernet import Fernet

    try:
        Fernet(key)
    except ValueError:
        raise SecretKeyError(
            f"{origin} has something that is no key: expected 32 bytes in URL-safe base64, as `lorabel keys new` "
            "prints them; several are comma-separated in the variable, and a line each in the file"
        ) from None


def _write_new(file: Path, key: str) -> None:
    """Write the file unless another process has just done it: then the other's key is used."""
    make_private(file.parent)
    with _writing(file):
        temporary = _temporary(file, [key])
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass  # its key is read next
        finally:
            temporary.unlink()


def _replace(file: Path, keys: Sequence[str]) -> None:
    with _writing(file):
        _temporary(file, keys).replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    make_private(file.parent)
    with _writing(file):
        descriptor = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with _writing(file):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SecretKeyError(f"{file} cannot be written: {error}; set {VARIABLE} instead") from error


def _temporary(file: Path, keys: Sequence[str]) -> Path:
    path = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write("\n".join(keys) + "\n")
        output.flush()
        os.fsync(output.fileno())
    return path
