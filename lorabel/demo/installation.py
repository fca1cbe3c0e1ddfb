"""The real Label Studio for the demo and for the end-to-end tests: an environment of its own, made by uv.

    <folder>/environment/   virtual environment with label-studio
    <folder>/data/          its database (SQLite), uploads and secret key
    <folder>/install.log    what uv and the database's migrations said

Label Studio pins what we do not want to share, hence an environment of its own. It gets a bare process
environment: it reads HOST, PORT, DATABASE_URL and the like as its own settings, and ours mean something else.
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
"""Without these Label Studio refuses a backend on this machine; without the first it also drops its events."""

QUIET = MappingProxyType(
    {
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
        "DISABLE_SIGNUP_WITHOUT_LINK": "true",
    }
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Installation:
    """Label Studio in a folder. `data` may lie elsewhere, so that several servers share one environment."""

    folder: Path
    data: Path

    @classmethod
    def under(cls, folder: Path) -> "Installation":
        folder = folder.absolute()
        return cls(folder, folder / "data")

    @property
    def program(self) -> Path:
        return self.folder / "environment" / "bin" / "label-studio"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def install(self, say: Say) -> None:
        """Once; an installation that was interrupted begins again."""
        finished = self.folder / "environment" / f"label-studio-{LABEL_STUDIO_VERSION}"
        if finished.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        uv = _find_uv(self.folder, self._run, say)
        say(f"installing Label Studio {LABEL_STUDIO_VERSION} (about a minute)")
        environment = str(self.folder / "environment")
        self._run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment])
        python = str(self.folder / "environment" / "bin" / "python")
        self._run([uv, "pip", "install", "--python", python, f"label-studio=={LABEL_STUDIO_VERSION}"])
        finished.touch()

    def create_database(self, email: str, password: str, say: Say) -> None:
        """Once: tables, and the first user with an organization."""
        finished = self.data / "created"
        if finished.exists():
            return
        say("creating Label Studio's database (about a minute)")
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        # The password goes by environment: everybody on this machine can read an argument.
        login = {"LABEL_STUDIO_USERNAME": email, "LABEL_STUDIO_PASSWORD": password}
        self._run([str(self.program), "init", "--quiet"], self.environment(login))
        finished.touch()

    def environment(self, extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """Everything that Label Studio's process sees of the world around it."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.data),
            "LANG": "C.UTF-8",
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data),
            **QUIET,
            **extra,
        }

    def command(self, port: int, variables: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """Starts the server with this environment and no other, whoever runs it."""
        environment = [f"{name}={value}" for name, value in self.environment(variables).items()]
        options = ["--no-browser", "--internal-host", ADDRESS, "--port", str(port)]
        return ["/usr/bin/env", "-i", *environment, str(self.program), "start", *options]

    def _run(self, argv: list[str], environment: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            log.write(f"\n$ {argv[0]} {argv[1]} ...\n".encode())
            log.flush()
            ended = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        if ended.returncode != 0:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise SettingsError(
                f"{' '.join(argv[:3])} ended with {ended.returncode} while Label Studio was installed in "
                f"{self.folder}; the end of {self.log}:\n{tail}"
            )


def _find_uv(folder: Path, run: Callable[[list[str]], None], say: Say) -> str:
    """uv beside our Python, on the PATH, or where `make setup` puts it; else fetched with pip."""
    prefix = Path(sys.prefix)
    for candidate in (prefix / "bin" / "uv", prefix.with_name(f"{prefix.name}-uv") / "bin" / "uv"):
        if candidate.exists():
            return str(candidate)
    if on_path := shutil.which("uv"):
        return on_path
    say("fetching uv")
    tools = folder / "uv"
    run([sys.executable, "-m", "venv", str(tools)])
    run([str(tools / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"])
    return str(tools / "bin" / "uv")
