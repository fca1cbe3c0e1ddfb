"""A machine and two sections with known figures, for the tests of reports and pictures."""

from benchmarks.machine import Machine
from benchmarks.rows import Goal, Row, Section, row_of

MACHINE = Machine(
    cpu="A processor",
    cores=2,
    memory_gb=24,
    gpu=None,
    device="cpu",
    precision="bfloat16",
    torch="2.15.0",
    python="3.11.7",
    commit="abc1234567",
    load_average=0.25,
)
SPEED = Section(
    "speed",
    "How fast it is",
    (
        row_of("served", [40.0, 44.0, 36.0], "tasks/s", note="bfloat16 | batch 16"),
        Row("served of limit", 0.93, "x", 0.9, 0.95, Goal(">=", 0.9)),
        Row("p50", 1234.5, "ms", goal=Goal("<=", 1000.0)),
    ),
    12.3,
)
BROKEN = Section("memory", "How much it takes", (), 0.5, "RuntimeError: no server")
SECTIONS = (SPEED, BROKEN)
