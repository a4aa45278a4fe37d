"""Tune a model on its own answers and on planted errors, and evaluate it on held-out patients.

    asclepius improve instruct_7b --tuned runs/instruct_7b --source data/split/train \\
        --held-out data/split/held_out --out runs/improved

A round is a list of commands, each of which can be run by hand: the model answers training questions several times,
certificates and citations sort its answers into pairs, planted errors give more pairs, both are packed and get their
reference log-probabilities, and the model is tuned on them. `--print-only` prints the commands, for machines that start
them in another way, such as the training on a pod.

    improved/
      commands.json   the finished commands: a restarted run continues after them
      prompt.txt      the prompt that the model was trained with
      round-1/        questions, answers, pairs, packed rows, and the run
      evaluation/     questions, answers and the report of all rounds
"""

import dataclasses
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asclepius_jax.config import PreferenceConfig, TrainConfig
from asclepius_jax.config.schema import peak_learning_rate
from asclepius_jax.plan.start_command import train_arguments
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.objects import is_bucket_url
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, shows_numbers
from data_prep.contract.records import read_parquet, text_hash
from data_prep.execution.progress import say

# Preference tuning moves a model that is tuned already: with the rates of tuning it forgets how to answer.
SLOWER = 10
PREFERENCE = PreferenceConfig(beta=0.1, anchor_weight=0.5)
COMMANDS = "commands.json"
OWN, PLANTED = "own", "planted"  # names of the two sources of pairs


@dataclasses.dataclass(frozen=True)
class ImproveOptions:
    tuned: Path
    """Run folder of the tuned model."""
    source: Path
    """Finished folder of the instructions that it was tuned on, such as one side of `asclepius split`."""
    held_out: Path
    """Finished folder of instructions about other patients, for the evaluation."""
    out: Path
    """Folder for all results. A restarted run continues in it."""
    rounds: int = 1
    """Number of rounds. Each starts from the model of the one before and asks other questions."""
    samples: int = 4
    """Answers per training question and round."""
    temperature: float = 0.8
    """Sampling temperature of these answers."""
    max_new_tokens: int = 256
    """Most tokens of an answer, also in the evaluation."""
    per_task: int = 100
    """Number of training questions per task and round; 0 asks all."""
    evaluated_per_task: int = 40
    """Number of held-out questions per task; 0 asks all."""
    own_share: float = 0.5
    """Share of rows with pairs of the model's own answers; the others have planted errors. 0 makes no own answers, and
    1 plants no errors."""
    without: str = ""
    """Class of errors that is not planted, such as dose, to see whether what is learnt carries over."""
    seed: int = 0
    """Random seed for questions, answers and planted errors."""
    print_only: bool = False
    """Print the commands of all rounds instead of running them."""


def with_defaults(config: TrainConfig) -> TrainConfig:
    """The config of tuning with the defaults of preference tuning: one pass over the pairs, at a smaller rate."""
    rate = float(f"{peak_learning_rate(config.optimizer, config.lora) / SLOWER:g}")  # 2e-06, not 2.0000000000000003e-06
    return dataclasses.replace(
        config,
        preference=config.preference if config.preference.beta else PREFERENCE,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=rate),
        data=dataclasses.replace(config.data, epochs=1.0),
    )


def run(options: ImproveOptions, config: TrainConfig, arguments: list[str]) -> None:
    """Run all commands that are not finished.

    Args:
        options: what to ask, and where things are.
        config: settings of the tuning.
        arguments: the arguments of `asclepius improve`. Its commands get the config and the flags of `train` in them.

    Raises:
        UserError: the options are wrong, or a command failed.
    """
    for word in arguments:
        if is_bucket_url(word.partition("=")[2] or word):
            raise UserError(f"{word}: improve takes local folders; run the commands that --print-only prints instead")
    check(options, config)
    template, weights = prompt_and_weights(options.tuned)
    todo = commands(options, config, train_arguments(arguments, options), shows_numbers(template))
    if options.print_only:
        print(*(shlex.join(["asclepius", *command]) for command in todo), sep="\n")
        return
    content = [content_of(folder) for folder in (options.source, options.held_out)]
    finished = Finished(options.out / COMMANDS, text_hash(repr(options), repr(config), weights, *content))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "prompt.txt").write_text(template, encoding="utf-8")
    for command in itertools.islice(todo, len(finished.commands), None):
        run_command(command)
        finished.add(command)
    say(f"improve: {options.out / 'evaluation' / 'report' / 'report.html'}")


def check(options: ImproveOptions, config: TrainConfig) -> None:
    for name in ("rounds", "samples", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if not 0 <= options.own_share <= 1:
        raise UserError(f"--own-share {options.own_share:g}: must be between 0 and 1")
    if options.own_share and options.samples < 2:
        raise UserError(f"--samples {options.samples}: two answers at least make a pair, or set --own-share 0")
    if config.preference.beta <= 0:
        raise UserError(f"--preference.beta {config.preference.beta:g}: must be above 0, usually 0.1")
    if not options.tuned.is_dir():
        raise UserError(f"--tuned {options.tuned}: no such run folder")
    shared = reports_in(options.source) & reports_in(options.held_out)
    if shared:
        raise UserError(f"--held-out {options.held_out}: {len(shared)} of its case reports are in {options.source} too")
    if options.out.exists() and any(options.out.iterdir()) and not (options.out / COMMANDS).is_file():
        raise UserError(f"--out {options.out} contains other files: choose another folder")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The column of instructions that says whom they are about."""

    report_id: str


def reports_in(folder: Path) -> set[str]:
    paths = verified_files(folder, read_manifest(folder, "instructions"))
    return {origin.report_id for path in paths for origin in read_parquet(path, Origin, ["report_id"])}


def content_of(folder: Path) -> str:
    return text_hash(*(file["sha256"] for file in read_manifest(folder, "instructions")["files"]))


def prompt_and_weights(model: Path) -> tuple[str, str]:
    """The prompt that a run was trained with, and a hash of its newest step."""
    from asclepius_jax.checkpoint.read import of_newest, read_meta

    step, meta = of_newest(model, lambda step: (step.name, read_meta(step)))
    return meta.prompt_template or TRAINING_TEMPLATE, text_hash(step, json.dumps(meta.checksums, sort_keys=True))


# ---------------------------------------------------------------- the commands


def commands(options: ImproveOptions, config: TrainConfig, given: list[str], cites: bool) -> Iterator[list[str]]:
    """The arguments of `asclepius`, command by command."""
    models = [options.tuned]
    for number in range(1, options.rounds + 1):
        folder = options.out / f"round-{number}"
        yield from round_commands(options, config, given, folder, models[-1], number)
        models.append(folder / "run")
    yield from evaluation_commands(options, models, cites)


def round_commands(
    options: ImproveOptions, config: TrainConfig, given: list[str], folder: Path, model: Path, number: int
) -> Iterator[list[str]]:
    seed = options.seed + number - 1
    if options.own_share:
        yield words("evaluate questions", source=options.source, out=folder / "questions", per_task=options.per_task,
                    seed=seed)  # fmt: skip
        yield [*answer_words(options, folder, {"model": model}), *flags({
            "seeds": options.samples, "decoding.temperature": options.temperature,
            "decoding.seed": seed * options.samples,
        })]  # fmt: skip
        yield words("pairs", **{"from": folder / "answers"}, out=folder / "pairs" / OWN)
    if options.own_share < 1:
        without = {"without": options.without} if options.without else {}
        yield words("pairs", source=options.source, out=folder / "pairs" / PLANTED, seed=seed, **without)
    shares = shares_of(options)
    for name in shares:
        yield words("pack", source=folder / "pairs" / name, out=folder / "packed" / name,
                    tokenizer=options.tuned / "tokenizer", row_length=config.data.row_length,
                    prompt_template=options.out / "prompt.txt")  # fmt: skip
        yield ["reference", *given, *flags({
            "init.hf": "", "init.checkpoint": model, "data.path": folder / "packed" / name,
            "out": folder / "referenced" / name,
        })]  # fmt: skip
    yield ["train", *given, *training_flags(config, folder, model, shares)]


def shares_of(options: ImproveOptions) -> dict[str, float]:
    """The sources of pairs with their shares of the rows."""
    shares = {OWN: options.own_share, PLANTED: 1 - options.own_share}
    return {name: share for name, share in shares.items() if share}


def training_flags(config: TrainConfig, folder: Path, model: Path, shares: dict[str, float]) -> list[str]:
    paths = [f"{name}={folder / 'referenced' / name}:{share:g}" for name, share in shares.items()]
    paths = paths if len(shares) > 1 else [str(folder / "referenced" / name) for name in shares]
    return flags({
        "init.hf": "", "init.checkpoint": model, "data.path": paths, "run-dir": folder / "run",
        "preference.beta": config.preference.beta, "preference.anchor-weight": config.preference.anchor_weight,
        "optimizer.learning-rate": config.optimizer.learning_rate, "data.epochs": config.data.epochs,
    })  # fmt: skip


def evaluation_commands(options: ImproveOptions, models: list[Path], cites: bool) -> Iterator[list[str]]:
    folder = options.out / "evaluation"
    questions, answers, judged = folder / "questions", folder / "answers", folder / "judged"
    yield words("evaluate questions", source=options.held_out, out=questions, per_task=options.evaluated_per_task,
                seed=options.seed)  # fmt: skip
    names = {"tuned" if not number else f"round-{number}": model for number, model in enumerate(models)}
    yield answer_words(options, folder, names)
    yield words("evaluate judge", questions=questions, answers=answers, out=judged, model="rules")
    measured = {"measured": folder / "citations.json"} if cites else {}
    if cites:
        yield words("evaluate citations", questions=questions, answers=answers, out=folder / "citations.json")
    yield words("evaluate report", questions=questions, answers=answers, judged=judged, out=folder / "report",
                baseline="tuned", **measured)  # fmt: skip


def answer_words(options: ImproveOptions, folder: Path, models: dict[str, Path]) -> list[str]:
    specs = [f"{name}=checkpoint:{model}" for name, model in models.items()]
    found = words("evaluate answers", questions=folder / "questions", out=folder / "answers", models=specs)
    return [*found, *flags({"decoding.max-new-tokens": options.max_new_tokens})]


def words(command: str, **settings: Any) -> list[str]:
    return [*command.split(), *flags(settings)]


def flags(settings: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for name, value in settings.items():
        found += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return found


# ---------------------------------------------------------------- running them


class Finished:
    """The finished commands of a folder, in their order."""

    def __init__(self, path: Path, settings: str):
        """Raises UserError if the folder has the results of other settings or inputs."""
        self.path, self.settings = path, settings
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("settings", settings) != settings:
            raise UserError(f"--out {path.parent} has the results of other settings or inputs: choose another folder")
        self.commands: list[list[str]] = kept.get("commands", [])

    def add(self, command: list[str]) -> None:
        self.commands.append(command)
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text(json.dumps({"settings": self.settings, "commands": self.commands}, indent=1) + "\n")
        temporary.replace(self.path)


def run_command(command: list[str]) -> None:
    """Run one command in a process of its own, so that it leaves the devices to the next one."""
    text = shlex.join(["asclepius", *command])
    say(f"improve: {text}")
    start = "from asclepius_jax.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", start, *command]) as child:
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    if code:
        raise UserError(f"{text} ended with code {code}: see above, and run improve again to continue from there")
