"""`asclepius SUBCOMMAND`: parse, load, call. A stage is imported only when it runs."""

import contextlib
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import tyro
from tyro import _strings

from asclepius_jax import __version__
from asclepius_jax.cli.commands import AUDIT, COMMANDS, IN_PARTS, PARTS, Command
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import place, shown
from data_prep.execution.arguments import check_finite, check_result, read_arguments, with_local_copies
from data_prep.execution.ending import end_alike, explain, forgive_streams, leave_at_once
from data_prep.execution.on_ray import run_on_ray, with_engine
from data_prep.execution.parts import JoinConfig, command_of, settings_of_stage

HELP = ("-h", "--help")


def joined_lines(helptext: str) -> str:
    """Join single line breaks. tyro keeps those of an indented docstring, in the middle of the lines of --help."""
    return re.sub(r"(?<!\n)\n[ \t]*(?=\S)", " ", helptext).rstrip()


_strings.remove_single_line_breaks = joined_lines


def main() -> None:
    """The command line. Ctrl-C and SIGTERM end every command in one line and with code 130, unless it saves and ends
    with 0, as training does."""
    forgive_streams()
    end_alike()
    try:
        run_command()
    except KeyboardInterrupt:
        print(f"asclepius {' '.join(sys.argv[1:2])}: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        sys.stdout.flush()


def run_command() -> None:
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in HELP:
        print(usage())
        sys.exit(0)
    if arguments[0] == "--version":
        print(f"asclepius-jax {__version__}")
        sys.exit(0)
    if arguments[0] == "evaluate" and (len(arguments) < 2 or arguments[1] in HELP):
        print(usage_of_evaluate())
        sys.exit(0)
    try:
        dispatch(arguments[0], arguments[1:], debug)
    except Exception as error:
        message = explain(error, COMMANDS[arguments[0]].extra if arguments[0] in COMMANDS else "")
        message = message and shown(message)
        if debug or message is None:
            raise
        print(f"asclepius {arguments[0]}: {message}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    summary = "Train clinical language models that can be shared."
    return page(summary, "asclepius", "COMMAND", COMMANDS, ["demo", "train --help"])


def usage_of_evaluate() -> str:
    summary = "Measure how good and how faithful a model's answers are."
    return page(summary, "asclepius evaluate", "PART", PARTS, ["demo", "judge --help"])


def page(summary: str, prog: str, kind: str, rows: dict[str, Command], examples: list[str]) -> str:
    lines = [f"  {name:<14}{command.summary}" for name, command in rows.items()]
    usage = f"usage: {prog} {kind} [--debug] ..."
    return "\n".join([summary, "", usage, f"`{prog} {kind} --help` lists every setting.", "", *lines, "",
                      examples_of(prog, examples)])  # fmt: skip


def examples_of(prog: str, examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {prog} {arguments}".rstrip() for arguments in examples)])


@contextlib.contextmanager
def ending_in_examples(name: str, command: Command, arguments: list[str]) -> Iterator[None]:
    """Print the command's examples below its --help."""
    try:
        yield
    except SystemExit as left:
        if left.code in (0, None) and set(HELP) & set(arguments):
            print(examples_of(f"asclepius {name}", command.examples))
        raise


def named(name: str, table: dict[str, Command], what: str) -> Command:
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        raise UserError(f"no such {what}; {f'did you mean {near[0]}?' if near else 'one of ' + ', '.join(table)}")
    return table[name]


def dispatch(name: str, arguments: list[str], debug: bool) -> None:
    command = named(name, COMMANDS, "subcommand")
    if name == "evaluate":
        part, *arguments = arguments
        name, command = f"evaluate {part}", named(part, PARTS, f"part of evaluate as {part}")
    if name in ("notes", "instructions") and any(a.split("=")[0] == "--audit" for a in arguments):
        # Another question to the same folder: none of the settings of a run that writes.
        command = AUDIT
    arguments = read_arguments(arguments)
    if name in ("train", "preflight", "reference"):
        train(name, command, arguments, debug)
    elif name == "plan":
        plan(command, arguments)
    elif name == "improve":
        improve(command, arguments)
    else:
        with with_local_copies(arguments, writes=name == "init") as arguments:
            run(name, command, arguments)


def run(name: str, command: Command, arguments: list[str]) -> None:
    """Run a command that takes folders and files, from its settings on."""
    if name == "demo":
        # The demo's mesh is made of virtual devices, which must be asked for before JAX starts.
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if name in ("import", "export", "merge"):
        os.environ["JAX_PLATFORMS"] = "cpu"  # they need no accelerator, and must not take one from a training
    module = importlib.import_module(command.module)
    with ending_in_examples(name, command, arguments):
        settings, described = getattr(module, command.config), f"{command.summary.capitalize()}."
        if command in [COMMANDS[stage] for stage in IN_PARTS]:
            settings = with_engine(settings)
        config = tyro.cli(settings, prog=f"asclepius {name}", description=described, args=arguments)
    if command in [COMMANDS[stage] for stage in IN_PARTS]:
        config, engine = config.run, config.on
        if engine.engine == "ray":
            check_finite(config)
            check_result(run_on_ray(module, command.function, config, engine))
            return
    check_finite(config)
    check_result(getattr(module, command.function)(config))


def join(config: JoinConfig) -> Any:
    """Run the stage of these parts once more, with their stored results in place of its work."""
    stage = command_of(config)
    command = named(stage, {**COMMANDS, **{f"evaluate {part}": row for part, row in PARTS.items()}}, "stage")
    module = importlib.import_module(command.module)
    return getattr(module, command.function)(settings_of_stage(config, stage, getattr(module, command.config)))


def train(name: str, command: Command, arguments: list[str], debug: bool) -> None:
    """`asclepius train CONFIG [--section.field value ...]`: the config gives the values, flags edit them.

    `asclepius preflight` and `asclepius reference` are started alike, and take the same flags.
    """
    leave_at_once(name)  # until the loop saves and ends by itself
    from asclepius_jax.distributed.xla_flags import set_flags_for_training

    set_flags_for_training()
    from asclepius_jax.config import TrainConfig
    from asclepius_jax.distributed.job import JobConfig, joined
    from asclepius_jax.train.watch.supervise import restarts_asked, supervise

    # Apart: the configuration of the run is the same in every process, a process's place in its job is not.
    @dataclass(frozen=True)
    class Flags:
        run: Annotated[TrainConfig, tyro.conf.arg(name="")]
        job: JobConfig
        restarts: int = 0
        """Restart a training after a crash, until this many crashes in a row bring no new checkpoint. The environment
        variable ASCLEPIUS_RESTARTS sets it too."""

    @dataclass(frozen=True)
    class CheckFlags(Flags):
        json: str = ""
        """File for the results as JSON, such as for a support ticket."""

    @dataclass(frozen=True)
    class ReferenceFlags(Flags):
        out: str = ""
        """Output folder: the rows of data.path, with the log-probabilities."""

    kind = {"train": Flags, "preflight": CheckFlags, "reference": ReferenceFlags}[name]
    flags = parse(name, arguments, kind, lambda config: kind(config, JobConfig()))
    if name == "train" and (restarts := restarts_asked(flags.restarts)):
        sys.exit(supervise([sys.executable, *sys.argv], place(flags.run.run_dir), restarts))
    with joined(flags.job, lambda error: None if debug else explain(error, command.extra), name):
        run: Callable[..., Any] = getattr(importlib.import_module(command.module), command.function)
        run(flags.run, *[getattr(flags, extra) for extra in ("json", "out") if hasattr(flags, extra)])


def plan(command: Command, arguments: list[str]) -> None:
    """`asclepius plan CONFIG --topology NAME [--section.field value ...]`."""
    # Nothing runs on a device; a rehearsal on cpu-8 needs eight of them, asked for before JAX starts.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if rehearsal := re.search(r"--topology[ =]cpu-(\d+)", " ".join(arguments)):
        os.environ["JAX_NUM_CPU_DEVICES"] = rehearsal[1]
    from asclepius_jax.distributed.xla_flags import set_flags_for_planning

    set_flags_for_planning()
    module = importlib.import_module(command.module)
    run_with_options("plan", module, module.PlanOptions, arguments)


def improve(command: Command, arguments: list[str]) -> None:
    """`asclepius improve CONFIG --tuned RUN ... [--section.field value ...]`."""
    module = importlib.import_module(command.module)
    run_with_options("improve", module, module.ImproveOptions, arguments, module.with_defaults)


def run_with_options(
    name: str, module: Any, options: Any, arguments: list[str], prepared: Callable[[Any], Any] = lambda config: config
) -> None:
    """Run a command whose own options stand beside the config of a training and its flags."""
    from asclepius_jax.config import TrainConfig

    @dataclass(frozen=True)
    class Flags:
        own: Annotated[options, tyro.conf.arg(name="")]
        run: Annotated[TrainConfig, tyro.conf.arg(name="")]

    needed = {field.name: tyro.MISSING for field in fields(options) if field.default is MISSING}
    flags = parse(name, arguments, Flags, lambda config: Flags(options(**needed), prepared(config)))
    module.run(flags.own, flags.run, arguments)


def parse(name: str, arguments: list[str], flags: Any, default: Callable[[Any], Any]) -> Any:
    """`flags` from a config file and what the command line changes of it; `default` makes them of a configuration."""
    from asclepius_jax.config import TrainConfig, load_config

    file = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if file is None and not set(HELP) & set(arguments):
        raise UserError("name a config first, such as instruct_7b or configs/mine.py")
    with ending_in_examples(name, COMMANDS[name], arguments):
        parsed = tyro.cli(
            flags,
            prog=f"asclepius {name} CONFIG",
            description=f"{COMMANDS[name].summary.capitalize()}.",
            default=default(TrainConfig() if file is None else load_config(file)),
            args=arguments if file is None else arguments[1:],
        )
    check_finite(parsed)
    return parsed
