"""The real Label Studio for the demo and the end-to-end tests, in a virtual environment of its own, made by uv.

    <folder>/environment/   virtual environment with label-studio
    <folder>/data/          its database (SQLite), uploads and secret key
    <folder>/install.log    output of uv and of the database's migrations

The virtual environment is separate because Label Studio pins versions of packages that we need in other versions.
Its process gets none of our environment variables: it would take HOST, PORT and DATABASE_URL for its own settings.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lorabel.errors import SettingsError

LABEL_STUDIO_VERSION = "1.23.2"
ADDRESS = "127.0.0.1"
INSTALL_TIMEOUT_S = 1200.0

PRIVATE_ADDRESSES = MappingProxyType({"SSRF_PROTECTION_ENABLED": "false", "ML_BLOCK_LOCAL_IP": "false"})
"""Without these Label Studio refuses a backend on this machine. Without the first it also sends it no events."""

QUIET = MappingProxyType(
    {
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
        "DISABLE_SIGNUP_WITHOUT_LINK": "true",
    }
)

Report = Callable[[str], None]
"""Shows the user what is being done now."""


@dataclass(frozen=True)
class Installation:
    """Label Studio in a folder. `data` can be elsewhere, so that several servers share one virtual environment."""

    folder: Path
    data: Path

    @classmethod
    def under(cls, folder: Path) -> "Installation":
        """An installation with its data in the same folder."""
        folder = folder.absolute()
        return cls(folder, folder / "data")

    @property
    def program(self) -> Path:
        return self.folder / "environment" / "bin" / "label-studio"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def install(self, report: Report) -> None:
        """Install Label Studio if it is not installed. An interrupted installation is started again.

        Raises:
            SettingsError: a command failed; the message has the end of its output.
        """
        finished_mark = self.folder / "environment" / f"label-studio-{LABEL_STUDIO_VERSION}"
        if finished_mark.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        uv = _find_uv(self.folder, self._run, report)
        report(f"installing Label Studio {LABEL_STUDIO_VERSION} (about a minute)")
        environment = str(self.folder / "environment")
        self._run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment])
        python = str(self.folder / "environment" / "bin" / "python")
        self._run([uv, "pip", "install", "--python", python, f"label-studio=={LABEL_STUDIO_VERSION}"])
        finished_mark.touch()

    def create_database(self, email: str, password: str, report: Report) -> None:
        """Create the tables, and the first user with an organization, if they are not there.

        Raises:
            SettingsError: a command failed; the message has the end of its output.
        """
        finished_mark = self.data / "created"
        if finished_mark.exists():
            return
        report("creating Label Studio's database (about a minute)")
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        # The password is passed in the environment, because every user of this machine can read arguments.
        login = {"LABEL_STUDIO_USERNAME": email, "LABEL_STUDIO_PASSWORD": password}
        self._run([str(self.program), "init", "--quiet"], self.environment(login))
        finished_mark.touch()

    def environment(self, extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """All environment variables of Label Studio's process."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.data),
            "LANG": "C.UTF-8",
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data),
            **QUIET,
            **extra,
        }

    def command(self, port: int, variables: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """The command that starts the server, which sees the variables of `environment` and no others."""
        environment = [f"{name}={value}" for name, value in self.environment(variables).items()]
        options = ["--no-browser", "--internal-host", ADDRESS, "--port", str(port)]
        return ["/usr/bin/env", "-i", *environment, str(self.program), "start", *options]

    def _run(self, argv: list[str], environment: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            log.write(f"\n$ {argv[0]} {argv[1]} ...\n".encode())
            log.flush()
            completed = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        if completed.returncode != 0:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise SettingsError(
                f"{' '.join(argv[:3])} ended with {completed.returncode} while Label Studio was installed in "
                f"{self.folder}; the end of {self.log}:\n{tail}"
            )


def _find_uv(folder: Path, run: Callable[[list[str]], None], report: Report) -> str:
    """Path of uv: beside our Python, where `make setup` puts it, or on the PATH; else it is installed with pip."""
    prefix = Path(sys.prefix)
    for candidate in (prefix / "bin" / "uv", prefix.with_name(f"{prefix.name}-uv") / "bin" / "uv"):
        if candidate.exists():
            return str(candidate)
    if on_path := shutil.which("uv"):
        return on_path
    report("fetching uv")
    uv_environment = folder / "uv"
    run([sys.executable, "-m", "venv", str(uv_environment)])
    run([str(uv_environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"])
    return str(uv_environment / "bin" / "uv")
