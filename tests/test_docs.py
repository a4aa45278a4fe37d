"""The README and docs/: every command in them is accepted, and those that need nothing from elsewhere run, in order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import assert_accepted
from tests.helpers.places import ROOT

NAV = re.findall(r"^  - .*: (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
PAGES = ["README.md", *(f"docs/{name}" for name in NAV)]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """(what the commands need, or nothing; the commands) of each block of shell."""
    return re.findall(r'^```sh(?: title="([^"]+)")?\n(.*?)^```$', text_of(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = [line for _, code in blocks(page) for line in code.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_pages_are_those_of_the_menu():
    assert sorted(NAV) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert len(text_of("README.md").splitlines()) <= 130
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page)):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
    for name in NAV:
        assert f"docs/{name}" in text_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_accepted(page: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    for words in commands(page):
        match words:
            case ["make", target]:
                assert target in targets
            case ["asclepius", "init", *_]:
                pass
            case ["asclepius", *arguments]:
                assert_accepted(monkeypatch, arguments)
            case ["launch/train.sh", *arguments]:
                assert_accepted(monkeypatch, ["train", *arguments])
            case ["python", script, *_]:
                assert (ROOT / script).is_file()
            case _:
                assert words[0] in ("curl", "echo", "export", "pip"), words


def test_the_messages_that_troubleshooting_quotes_are_those_of_the_code():
    """Each quotation is cut at "..." and at numbers, which messages fill in."""
    rows = re.findall(r"^\| (.*?) \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    sources = "\n".join(
        file.read_text(encoding="utf-8")
        for package in ("asclepius_jax", "data_prep")
        for file in (ROOT / package).rglob("*.py")
    )
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if " " in quote]
    assert len(quoted) >= 7
    for quote in quoted:
        for part in re.split(r"\s*\.\.\.\s*|\s*\d+ s?", quote):
            assert part in sources, quote


@pytest.mark.slow
def test_every_command_that_needs_nothing_from_elsewhere_runs(tmp_path: Path):
    for name in ("configs", "data_prep", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    quick = (ROOT / "configs/demo.py").read_text(encoding="utf-8").replace("epochs=24", "epochs=2")
    (tmp_path / "quick.py").write_text(quick)
    code = [code for page in PAGES for needs, code in blocks(page) if not needs and not code.startswith("make ")]
    assert len(code) >= 12
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "\n".join(["set -euxo pipefail", "asclepius demo --config quick.py", *code])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "4"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for made in ("models/mine/config.json", "models/adapters/adapter_model.safetensors", "release/README.md",
                 "evaluation/report/report.html", "forms.html", "runs/imported/checkpoints"):  # fmt: skip
        assert (tmp_path / made).exists(), made


@pytest.mark.slow  # CI runs the slow tests of this file
def test_the_library_of_the_quickstart_runs(base, tmp_path: Path, monkeypatch):
    """Its lines of Python, on the rows of the small run."""
    import asclepius_jax as asc

    code = re.search(r"```python\n(import asclepius_jax as asc\n.*?)```", text_of("docs/index.md"), re.DOTALL)[1]
    code = code.replace('"data/packed/notes"', repr(base.data.path[0])).replace('model="demo"', f"model={base.model!r}")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "models/notebook/config.json").is_file()
    assert asc.load_checkpoint("runs/notebook").model.config
