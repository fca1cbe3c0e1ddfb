"""Reads the resident memory of another process from Linux' /proc (man proc_pid_status)."""

from pathlib import Path

KILOBYTES_PER_MEGABYTE = 1024


class ResidentMemory:
    """The resident memory of a process, in MB."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    @property
    def now_mb(self) -> float:
        return self._mb("VmRSS")

    @property
    def peak_mb(self) -> float:
        """The most since the process began, or since `forget_peak`."""
        return self._mb("VmHWM")

    def forget_peak(self) -> None:
        (self._folder / "clear_refs").write_text("5")

    def _mb(self, name: str) -> float:
        for line in (self._folder / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) / KILOBYTES_PER_MEGABYTE
        raise LookupError(f"{self._folder}/status has no {name}")
