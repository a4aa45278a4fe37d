"""Every --help: a sentence for the command and for each setting, and two examples that the command accepts."""

import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import tyro

from asclepius_jax import cli
from asclepius_jax.config import TrainConfig
from asclepius_jax.distributed.job import JobConfig
from tests.helpers.command_line import assert_accepted

COMMANDS = {name: command for name, command in cli.COMMANDS.items() if name != "evaluate"}
COMMANDS |= {f"evaluate {name}": command for name, command in cli.PARTS.items()} | {"notes --audit data": cli.AUDIT}
# A description that begins so hangs on the name of its flag, or is a clause instead of a noun or a sentence.
FRAGMENT = re.compile(
    r"(Of|So many|What|Whether|How|Where|Which|Who|Without|After which|As (?!it is)|Its|Their|For(?! ex)|By|Apart)\b"
)


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["asclepius", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    return capsys.readouterr().out


DEFAULT = re.compile(r"\s*\((?:default|required|repeatable|fixed)\b.*\)$")


def described(settings: Any) -> Iterator[tuple[str, str]]:
    """Each flag or group of flags, and its description without default."""
    parser = tyro.extras.get_parser(settings)
    for group in parser._action_groups:
        if group.description:
            yield str(group.title), group.description
    for action in parser._actions:
        if action.dest != "help":
            yield "/".join(action.option_strings), DEFAULT.sub("", str(action.help or ""))


def test_the_lines_of_a_docstring_are_joined():
    assert not [flag for flag, text in described(JobConfig) if "\n" in text]


def settings_of(name: str) -> list[Any]:
    command = COMMANDS[name]
    if name == "train":
        return [TrainConfig, JobConfig]
    return [getattr(import_module(command.module), command.config)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_is_described_by_a_sentence(name: str):
    wrong = [
        f"{flag}: {text!r}"
        for settings in settings_of(name)
        for flag, text in described(settings)
        if FRAGMENT.match(text) or not text.endswith((".", ")")) or len(text.split()) < 2
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_in_two_examples(name: str, monkeypatch, capsys):
    page = shown(monkeypatch, capsys, *name.split(), "--help")
    plain = name.removesuffix(" --audit data")
    examples = [f"  asclepius {plain} {arguments}".rstrip() for arguments in COMMANDS[name].examples]
    assert f"\n{COMMANDS[name].summary.capitalize()}.\n" in page
    assert page.rstrip().splitlines()[-3:] == ["examples:", *examples]


def test_the_lists_of_commands_end_in_examples(monkeypatch, capsys):
    for arguments, names in (("--help",), cli.COMMANDS), (("evaluate", "--help"), cli.PARTS):
        page = shown(monkeypatch, capsys, *arguments)
        assert page.splitlines()[-3] == "examples:"
        for name, command in names.items():
            assert re.search(rf"^  {name} +{re.escape(command.summary)}$", page, re.MULTILINE)
            assert not FRAGMENT.match(command.summary.capitalize())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_accepted(name: str, monkeypatch):
    for example in COMMANDS[name].examples:
        assert_accepted(monkeypatch, [*name.removesuffix(" --audit data").split(), *shlex.split(example)])
