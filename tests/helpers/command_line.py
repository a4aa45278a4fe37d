"""The command line in tests: what it accepts without running it, and what it says on a mistake."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from asclepius_jax import cli

Ask = Callable[..., str]


def one_line(told: str) -> str:
    assert told.count("\n") == 1, told
    assert told.startswith("asclepius ")
    return told


def command_of(arguments: Sequence[str]) -> cli.Command:
    if arguments[0] == "evaluate":
        return cli.PARTS[arguments[1]]
    return cli.AUDIT if "--audit" in arguments else cli.COMMANDS[arguments[0]]


def assert_accepted(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> None:
    """`asclepius ARGUMENTS` passes the command line, and the function that it starts is called once, and replaced."""
    command, started = command_of(arguments), []
    with monkeypatch.context() as patch:
        for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):
            patch.setenv(variable, os.environ.get(variable, ""))
        patch.setattr(import_module(command.module), command.function, lambda *settings: started.append(settings))
        patch.setattr("asclepius_jax.train.watch.supervise.supervise", lambda *settings: started.append(settings))
        # Addresses of buckets pass the command line too; nothing is there to fetch.
        for name in ("fetch", "fetch_output"):
            patch.setattr(f"data_prep.execution.arguments.{name}", Path)
        patch.setattr("data_prep.execution.arguments.matching", lambda pattern: [pattern])
        patch.setattr("data_prep.execution.arguments.sending", lambda urls: contextlib.nullcontext())
        patch.setattr(sys, "argv", ["asclepius", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        assert not code, arguments
    assert len(started) == 1
