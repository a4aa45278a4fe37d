"""`asclepius SUBCOMMAND`: parse, load, call. A stage is imported only when it runs."""

import difflib
import errno
import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from asclepius_jax import __version__
from data_prep.contract.errors import UserError


@dataclass(frozen=True)
class Command:
    summary: str
    module: str
    config: str
    function: str
    extra: str  # of the package; what to install where an import fails


COMMANDS = {
    "notes": Command("case reports to synthetic notes", "data_prep.synthesize.notes", "NotesConfig", "run", "prep"),
    "real-notes": Command(
        "real notes to a folder of notes", "data_prep.ingest.real_notes", "RealNotesConfig", "run", "prep"
    ),
    "instructions": Command(
        "notes to instruction-answer pairs", "data_prep.synthesize.instructions", "InstructionsConfig", "run", "prep"
    ),
    "compare": Command("notes beside real ones, on a page", "data_prep.curate.compare", "CompareConfig", "run", "prep"),
    "split": Command(
        "notes or pairs to training and held-out ones", "data_prep.curate.split", "SplitConfig", "run", "prep"
    ),
    "release": Command("pairs to a data set for others", "data_prep.curate.release", "ReleaseConfig", "run", "prep"),
    "adopt": Command("a published data set to pairs", "data_prep.ingest.published", "AdoptConfig", "run", "prep"),
    "pack": Command("notes or pairs to packed rows", "data_prep.pack.run", "PackConfig", "run", "prep"),
    "train": Command("pretrain or tune on packed rows", "asclepius_jax.train.loop", "", "train", "train"),
    "plan": Command(
        "memory, communication and speed on a machine that is not here",
        "asclepius_jax.plan.command",
        "PlanOptions",
        "run",
        "plan",
    ),
    "import": Command(
        "Hugging Face folder to checkpoint", "asclepius_jax.convert.import_hf", "ImportConfig", "run_import", "train"
    ),
    "export": Command(
        "checkpoint to Hugging Face folder", "asclepius_jax.convert.export_hf", "ExportConfig", "run_export", "train"
    ),
    "generate": Command("ask a checkpoint", "asclepius_jax.generate", "GenerateConfig", "run", "train"),
    "init": Command(
        "copy the configs and launch scripts into a folder, to edit them", "asclepius_jax.config", "InitFolder",
        "init_folder", "train",
    ),
    "evaluate": Command("how good and how faithful: `asclepius evaluate` lists the parts", "", "", "", "evaluate"),
    "demo": Command("the whole pipeline, small, on this machine", "asclepius_jax.demo", "DemoConfig", "run", "demo"),
}  # fmt: skip

# `asclepius evaluate PART`: what each is, its module in asclepius_jax.evaluate, its settings; in the order of an
# evaluation.
PARTS = {
    name: Command(summary, f"asclepius_jax.evaluate.{module}", config, "run", "evaluate")
    for name, summary, module, config in (
        ("questions", "what the models are asked", "questions.questions", "QuestionsConfig"),
        ("benchmark", "data sets of others to questions", "questions.registry", "SetConfig"),
        ("answers", "what they answer", "answers.answers", "AnswersConfig"),
        ("score", "answers against known ones, without a judge", "known_answers.score", "ScoreConfig"),
        ("plant", "answers with known errors, to judge a judge", "judge.plant", "PlantConfig"),
        ("judge", "what a judge says of the answers", "judge.judge", "JudgeConfig"),
        ("claims", "the answers claim by claim, by a chat model", "judge.claims", "ClaimsConfig"),
        ("study", "a blinded study for clinicians", "clinicians.study", "StudyConfig"),
        ("serve", "its page, where they score answers", "clinicians.serve", "ServeConfig"),
        ("paper", "its forms to print, and back in as CSV", "clinicians.paper", "PaperConfig"),
        ("ratings", "what they said, by model", "clinicians.ratings", "RatingsConfig"),
        ("realism", "how notes read beside real ones", "audits.realism", "RealismConfig"),
        ("canaries", "secrets in training notes, to find again", "audits.canaries", "CanariesConfig"),
        ("privacy", "what a model has kept of its notes", "audits.privacy", "PrivacyConfig"),
        ("forgetting", "what it has forgotten", "audits.forgetting", "ForgettingConfig"),
        ("report", "all that is stored, on a page", "report.report", "ReportConfig"),
        ("demo", "all of it, small, on what asclepius demo made", "demo", "DemoConfig"),
    )
}


def main() -> None:
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)
    if arguments[0] == "--version":
        print(f"asclepius-jax {__version__}")
        sys.exit(0)
    if arguments[0] == "evaluate" and (len(arguments) < 2 or arguments[1] in ("-h", "--help")):
        print(usage_of_evaluate())
        sys.exit(0)
    try:
        dispatch(arguments[0], arguments[1:], debug)
    except Exception as error:
        message = explain(error, arguments[0])
        if debug or message is None:
            raise
        print(f"asclepius {arguments[0]}: {message}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    lines = [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Train clinical language models that can be shared.",
            "",
            "usage: asclepius SUBCOMMAND [--debug] ...        asclepius SUBCOMMAND --help shows every setting",
            "",
            *lines,
        ]
    )


def usage_of_evaluate() -> str:
    lines = [f"  {name:<14}{command.summary}" for name, command in PARTS.items()]
    return "\n".join(["usage: asclepius evaluate PART ...        asclepius evaluate PART --help", "", *lines])


def named(name: str, table: dict[str, Command], what: str) -> Command:
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        raise UserError(f"no such {what}; {f'is it {near[0]}?' if near else 'one of ' + ', '.join(table)}")
    return table[name]


def dispatch(name: str, arguments: list[str], debug: bool) -> None:
    command = named(name, COMMANDS, "subcommand")
    if name == "evaluate":
        part, *arguments = arguments
        name, command = f"evaluate {part}", named(part, PARTS, f"part of evaluate as {part}")
    if name in ("notes", "instructions") and any(a.split("=")[0] == "--audit" for a in arguments):
        # Another question to the same folder: none of the settings of a run that writes.
        command = Command("", "data_prep.curate.audit", "AuditConfig", "run", "prep")
    if name == "train":
        train(command, arguments, debug)
        return
    if name == "plan":
        plan(command, arguments)
        return
    if name == "demo":
        # The demo's mesh is made of virtual devices, which must be asked for before JAX starts.
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if name in ("import", "export"):
        os.environ["JAX_PLATFORMS"] = "cpu"  # they need no accelerator, and must not take one from a training
    module = importlib.import_module(command.module)
    config = tyro.cli(getattr(module, command.config), prog=f"asclepius {name}", args=arguments)
    getattr(module, command.function)(config)


def train(command: Command, arguments: list[str], debug: bool) -> None:
    """`asclepius train CONFIG [--section.field value ...]`: the config gives the values, flags edit them."""
    from asclepius_jax.distributed.xla_flags import set_flags_for_training

    set_flags_for_training()
    from asclepius_jax.config import TrainConfig
    from asclepius_jax.distributed.job import JobConfig, joined
    from asclepius_jax.train.supervise import restarts_asked, supervise

    # Apart: the configuration of the run is the same in every process, a process's place in its job is not.
    @dataclass(frozen=True)
    class Flags:
        run: Annotated[TrainConfig, tyro.conf.arg(name="")]
        job: JobConfig
        restarts: int = 0
        """Start again after crashes, until so many in a row bring no new checkpoint; or set ASCLEPIUS_RESTARTS."""

    flags = parse("train", arguments, Flags, lambda config: Flags(config, JobConfig()))
    if restarts := restarts_asked(flags.restarts):
        sys.exit(supervise([sys.executable, *sys.argv], Path(flags.run.run_dir), restarts))
    with joined(flags.job, lambda error: None if debug else explain(error, "train")):
        module = importlib.import_module(command.module)
        run: Callable[[Any], Any] = getattr(module, command.function)
        run(flags.run)


def plan(command: Command, arguments: list[str]) -> None:
    """`asclepius plan CONFIG --topology NAME [--section.field value ...]`."""
    # Nothing runs on a device; a rehearsal on cpu-8 needs eight of them, asked for before JAX starts.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if rehearsal := re.search(r"--topology[ =]cpu-(\d+)", " ".join(arguments)):
        os.environ["JAX_NUM_CPU_DEVICES"] = rehearsal[1]
    from asclepius_jax.distributed.xla_flags import set_flags_for_planning

    set_flags_for_planning()
    from asclepius_jax.config import TrainConfig

    module = importlib.import_module(command.module)
    options = module.PlanOptions

    @dataclass(frozen=True)
    class Flags:
        plan: Annotated[options, tyro.conf.arg(name="")]  # type: ignore[valid-type]
        run: Annotated[TrainConfig, tyro.conf.arg(name="")]

    flags = parse("plan", arguments, Flags, lambda config: Flags(options(tyro.MISSING), config))
    module.run(flags.plan, flags.run)


def parse(name: str, arguments: list[str], flags: Any, default: Callable[[Any], Any]) -> Any:
    """`flags` from a config file and what the command line changes of it; `default` makes them of a configuration."""
    from asclepius_jax.config import TrainConfig, load_config

    file = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if file is None and not {"-h", "--help"} & set(arguments):
        raise UserError("name a config first, such as instruct_7b or configs/mine.py")
    return tyro.cli(
        flags,
        prog=f"asclepius {name} CONFIG",
        description=COMMANDS[name].summary,
        default=default(TrainConfig() if file is None else load_config(file)),
        args=arguments if file is None else arguments[1:],
    )


def explain(error: Exception, name: str) -> str | None:
    """One line for what the user can mend, None for what only a programmer can."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and name in COMMANDS:
        extra = COMMANDS[name].extra
        if error.name == "torch":  # which build of it is right, only the machine's owner knows
            return "torch is not installed: pip install torch, in the build for this machine"
        return f"{error.name} is not installed: pip install 'asclepius-jax[{extra}]'"
    if os.strerror(errno.ENOSPC) in str(error):  # TensorStore wraps it in an error of its own
        return f"the disk is full: make room and run this again ({str(error).splitlines()[0][:200]})"
    files = FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError
    if isinstance(error, files) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    hf = sys.modules.get("asclepius_jax.model.huggingface.names")
    if hf is not None and isinstance(error, hf.FolderError):
        return str(error)
    return None
