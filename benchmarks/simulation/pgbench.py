"""How many of the queries that requests need one PostgreSQL answers a second, by PostgreSQL's own `pgbench`."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

CLIENTS, THREADS = 8, 1
PAYLOAD = "x" * 3000
LOOKUP = (
    "SELECT id, updated_at, live_number, head_number, "
    "EXISTS (SELECT * FROM unread_task WHERE unread_task.project_id = project.id) "
    "FROM project WHERE label_studio_id = :id ORDER BY id;"
)
EVENT = (
    "INSERT INTO event (received_at, action, project_id, payload, state) "
    f"VALUES (now(), 'ANNOTATION_CREATED', :id, '{PAYLOAD}', 'applied') RETURNING id;"
)
SCRIPTS: Mapping[str, str] = {
    "a lookup": LOOKUP,
    "a lookup in a transaction, after a ping": f"SELECT 1;\nBEGIN;\n{LOOKUP}\nROLLBACK;",
    "an event": f"{LOOKUP}\n{EVENT}",
    "an event in a transaction, after a ping, twice": (
        f"SELECT 1;\nBEGIN;\n{LOOKUP}\nROLLBACK;\nSELECT 1;\nBEGIN;\n{EVENT}\nCOMMIT;"
    ),
}


def rates(url: str, projects: int, seconds: int) -> dict[str, float]:
    """By what is asked, how often it is answered a second, by CLIENTS clients. Empty where there is no `pgbench`.

    Args:
        url: of a database with projects 1 to `projects`.
    """
    program = _program()
    if program is None:
        return {}
    return {name: _rate(program, url, projects, script, seconds) for name, script in SCRIPTS.items()}


def _rate(program: str, url: str, projects: int, script: str, seconds: int) -> float:
    with TemporaryDirectory(prefix="lorabel-pgbench-") as folder:
        file = Path(folder) / "script.sql"
        file.write_text(f"\\set id random(1, {projects})\n{script}\n")
        options = ["--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", f"--jobs={THREADS}"]
        ended = subprocess.run(
            [program, *options, f"--time={seconds}", f"--file={file}", url],
            capture_output=True,
            text=True,
        )
    found = re.search(r"tps = ([0-9.]+)", ended.stdout)
    if ended.returncode or found is None:
        raise RuntimeError(f"pgbench has failed: {ended.stderr[:500]}")
    return float(found[1])


def _program() -> str | None:
    """From the newest of Debian's versions, whose program on the PATH wants a cluster; else from the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return str(versions[-1]) if versions else shutil.which("pgbench")
