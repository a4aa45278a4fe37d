"""The parts of `asclepius evaluate` on the command line."""

import sys

import pytest

from asclepius_jax import cli
from tests.helpers.command_line import Ask, one_line
from tests.helpers.places import ROOT


def test_a_part_of_the_evaluation_that_there_is_not_gets_a_suggestion(refused: Ask):
    assert "no such part of evaluate as qestions; did you mean questions?" in one_line(refused("evaluate", "qestions"))
    assert "absent: no such file" in one_line(refused("evaluate", "questions", "--source", "absent", "--out", "x"))


def test_torch_is_left_to_the_owner_of_the_machine(refused: Ask, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "config.json").write_text("{}")
    flags = (
        "--scorer",
        tmp_path,
        "--sources",
        f"a={ROOT / 'data_prep/ingest/demo_reports.jsonl'}",
        "--out",
        tmp_path / "x",
    )
    assert "torch is not installed: pip install torch" in one_line(refused("evaluate", "realism", *flags))


@pytest.mark.parametrize("name", ["--help", "-h", ""])
def test_the_parts_of_the_evaluation_are_listed(monkeypatch, capsys, name: str):
    monkeypatch.setattr(sys, "argv", ["asclepius", "evaluate", *filter(None, [name])])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {part} " in shown for part in cli.PARTS)


@pytest.mark.parametrize("part", cli.PARTS)
def test_every_part_of_the_evaluation_shows_its_settings(monkeypatch, capsys, part: str):
    monkeypatch.setattr(sys, "argv", ["asclepius", "evaluate", part, "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert f"asclepius evaluate {part}" in capsys.readouterr().out
