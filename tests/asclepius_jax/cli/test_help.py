"""Every --help: a sentence for the command and for each setting, and two examples that the command accepts."""

import dataclasses
import os
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import tyro

from asclepius_jax import cli
from asclepius_jax.config import TrainConfig
from asclepius_jax.distributed.job import JobConfig
from data_prep.execution.arguments import OMITTED
from tests.helpers.command_line import assert_accepted, one_line

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
    if name in ("train", "preflight", "reference"):
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


NUMBERS = (
    "train demo --optimizer.learning-rate nan",
    "train demo --optimizer.weight-decay nan",
    "train demo --data.epochs inf",
    "train demo --lora.alpha nan",
    "train demo --health.spike-sigmas nan",
    "plan demo --topology h100-8 --price nan",
    "notes --source a.jsonl --out out --max-cost nan",
    "notes --source a.jsonl --out out --price-input nan",
    "notes --source a.jsonl --out out --temperature nan",
    "notes --source a.jsonl --out out --timeout-seconds inf",
    "notes --source a.jsonl --out out --style nan",
    "split --source a --out out --held-out nan",
    "export --checkpoint a --out out --max-shard-size nan",
    "generate --checkpoint a --prompt b --sampling.top-p nan",
    "evaluate report --questions a --out out --margin nan",
    "evaluate study --questions a --answers b --raters A --out out --repeats nan",
)


@pytest.mark.parametrize("line", NUMBERS)
def test_no_number_of_any_command_is_nan_or_infinite(line: str, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # set for good by plan and train
    *_, flag, value = line.split()
    assert f"{flag} {value}: it must be a finite number" in one_line(refused(*line.split()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_float_is_found_under_its_flag(name: str):
    """A group of settings that is not part of the flags must be listed, or the message names a flag that is none."""
    for settings in settings_of(name):
        shown = {flag.split("/")[0].removeprefix("--") for flag, _ in described(settings)}
        for flag in float_flags(settings):
            assert flag in shown, flag


def float_flags(settings: Any, path: str = "") -> Iterator[str]:
    for field in dataclasses.fields(settings):
        kind = typing.get_type_hints(settings)[field.name]
        name = f"{path}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(kind):
            yield from float_flags(kind, "" if field.name in OMITTED else f"{name}.")
        elif kind is float:
            yield name


OTHER_STORAGE = (
    "export --checkpoint runs/a --out az://container/model",
    "notes --source a.csv --out=hdfs://host/notes",
    "split --source a --out out --against https://host/c.csv",
    "train demo --data.path az://b/packed",
    "evaluate answers --questions a --out out --models m=hf:ftp://b/model",
    "init wasb://bucket/mine",
)


@pytest.mark.parametrize("line", OTHER_STORAGE)
def test_storage_that_is_not_known_is_no_folder_of_that_name(line: str, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "only gs:// and s3:// are known; mount it and name the folder" in one_line(refused(*line.split()))
    assert not list(tmp_path.iterdir())
