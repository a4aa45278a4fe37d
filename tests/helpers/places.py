"""Where things lie: the checkout, and real inputs beside it, if any."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


def shared(name: str) -> Path:
    """A real input, or skip."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no ../shared/{name} beside the repository")
    return path
