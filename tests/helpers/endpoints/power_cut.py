"""Power cuts: a process is killed at a synchronization of its files, and what it had not synchronized is lost.

`power_cut.c` is loaded before the C library, and keeps the files as they stood at their last fsync.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.places import ROOT

SOURCE = Path(__file__).with_suffix(".c")
AVAILABLE = sys.platform == "linux" and shutil.which("cc") is not None


def compile_shim(folder: Path) -> Path:
    library = folder / "power_cut.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


@dataclass(frozen=True)
class Machine:
    """A machine on which a program writes files whose paths start with `watched`."""

    shim: Path
    watched: Path

    @property
    def disk(self) -> Path:
        """What survives a power cut."""
        return self.watched.with_name("disk")

    def start(self, code: str, at: int = 0, before: bool = False) -> subprocess.Popen[str]:
        """Start Python code. The power is cut at synchronization number `at`, or when the process is killed."""
        self.disk.mkdir(parents=True, exist_ok=True)
        settings = {"CUT_WATCH": self.watched, "CUT_DISK": self.disk, "CUT_AT": at, "CUT_BEFORE": int(before)}
        environment = {**os.environ, "LD_PRELOAD": self.shim, "PYTHONPATH": ROOT, **settings}
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={name: str(value) for name, value in environment.items()},
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_again(self) -> None:
        """Replace the files by those on the disk."""
        for path in self.watched.parent.glob(f"{self.watched.name}*"):
            path.unlink()
        for path in self.disk.iterdir():
            if path.suffix != ".partial":
                shutil.copy(path, self.watched.parent)
