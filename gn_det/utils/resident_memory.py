"""The memory of this process, as the operating system counts it."""

from pathlib import Path
from typing import Literal

__all__ = ["resident_bytes"]


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the resident memory of this process in bytes, with libraries and interpreter.

    Without Linux's ``/proc`` it is always the peak, and 0 where the system does not count it.

    Args:
        field: "VmRSS" for the memory now, "VmHWM" for the peak since the process started.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        try:
            import resource  # not on Windows
        except ImportError:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    # not ru_maxrss: on Linux a new process inherits the peak of its parent
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(lines[field].split()[0]) * 1024
