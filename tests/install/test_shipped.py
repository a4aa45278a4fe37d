"""Configs and launch scripts are found by name, and copied to be edited, from wherever the package lies."""

from pathlib import Path

import pytest

from asclepius_jax import cli, config
from asclepius_jax.config import find_config, load_config
from tests.helpers.command_line import Ask, one_line
from tests.helpers.places import ROOT

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture(params=["checkout", "wheel"])
def package(request, tmp_path: Path, monkeypatch) -> Path:
    """An empty folder to stand in; in a wheel, configs lie inside the package."""
    if request.param == "wheel":
        package = tmp_path / "site/asclepius_jax"
        package.mkdir(parents=True)
        (package / "configs").symlink_to(ROOT / "configs")
        (package / "launch").symlink_to(ROOT / "launch")
        (tmp_path / "site/configs").mkdir()  # another package's
        monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_found_by_its_name(package: Path, name: str):
    assert load_config(name) == load_config(f"{name}.py") == load_config(ROOT / "configs" / f"{name}.py")


def test_a_config_of_ones_own_comes_first(package: Path):
    (package / "configs").mkdir()
    (package / "configs/instruct_7b.py").write_text(
        "from asclepius_jax.config import TrainConfig\nconfig = TrainConfig(run_dir='mine')\n"
    )
    assert load_config("instruct_7b").run_dir == "mine"
    assert find_config("configs/instruct_7b.py") == Path("configs/instruct_7b.py")


def test_a_name_that_is_nearly_one_is_suggested(package: Path, refused: Ask):
    assert one_line(refused("train", "instruct_7")).endswith("no such config file; did you mean instruct_7b?\n")


def test_what_init_copies_runs_by_its_path(package: Path, monkeypatch, refused: Ask, capsys):
    monkeypatch.setattr("sys.argv", ["asclepius", "init", "mine"])
    cli.main()
    copied = sorted(str(path.relative_to("mine")) for path in Path("mine").rglob("*") if path.is_file())
    assert copied == [
        *(f"configs/{name}.py" for name in NAMES),
        *sorted(f"launch/{p.name}" for p in (ROOT / "launch").iterdir()),
    ]
    assert Path("mine/launch/train.sh").stat().st_mode & 0o111
    assert load_config("mine/configs/instruct_7b.py") == load_config("instruct_7b")
    Path("mine/configs/instruct_7b.py").write_text("# edited\n")
    assert "mine/configs exists already: choose another folder" in one_line(refused("init", "mine"))
    assert Path("mine/configs/instruct_7b.py").read_text() == "# edited\n"


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["asclepius", "--version"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert capsys.readouterr().out == "asclepius-jax 0.1.0\n"
