"""One self-contained report.html in the run folder."""

from pathlib import Path


def write_report(run_dir: Path) -> None:
    pass
