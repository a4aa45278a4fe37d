"""Compare ways to tune a model towards answers that its notes support.

Six models are tuned: on plain examples, on examples that cite, and from the latter on, for the same number of updates,
on more of these examples, on planted errors, on pairs of the model's own answers, and on both kinds of pairs. On
patients whom none of them has seen, the table compares unsupported statements, omissions, length and citations of their
answers, their losses, and how often they find the true answer likelier than one with a planted error, apart for classes
of errors that the tuning left out:

    python examples/truthfulness.py --reports case_reports.jsonl --general general_text.jsonl --out runs/truthfulness
    python examples/truthfulness.py --reports case_reports.jsonl --general text/ --out runs/smollm2 --smollm2 MODEL

The default sizes are meant for three hours on two CPU cores. A stopped run goes on. Outputs: table.md and table.json.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from study_inputs import once, say, small_model, split_general, trained

import asclepius_jax as asc
from asclepius_jax.config import CheckpointConfig, ComputeConfig, EvalConfig, InitConfig, LogConfig, PreferenceConfig
from asclepius_jax.evaluate.answers import answers
from asclepius_jax.evaluate.answers.specs import Decoding
from asclepius_jax.evaluate.audits.citations import count as count_citations
from asclepius_jax.evaluate.judge.by_rule import judge_answer
from asclepius_jax.evaluate.questions import questions
from asclepius_jax.evaluate.records import NO_ANSWER, Answer, Question, read_records
from asclepius_jax.evaluate.statistics.estimates import SHARE, Estimate, ratio_of_sums
from asclepius_jax.train.preference.reference import reference
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.cited_sentences import without_citations
from data_prep.contract.records import Note, read_parquet
from data_prep.contract.tokenizer import train_sentencepiece
from data_prep.curate import split
from data_prep.curate.pairs import pairs
from data_prep.curate.pairs.planted_pairs import classes_without
from data_prep.faithfulness.certificate import certify
from data_prep.pack import run as pack
from data_prep.synthesize import instructions, notes

# Classes of errors that no arm is tuned on.
LEFT_OUT = ("side", "negation", "duration")
START = "examples that cite"  # the arm that the following ones start from
ARMS = ("plain examples", START, "more examples", "planted errors", "own answers", "both")
BATCH = 2  # rows per update
HELD_OUT = 0.2  # of the patients, and of the general documents
NEVER = 10**9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers for three hours on two cores, with the peak learning rates."""

    pretraining: int  # updates
    tuning: int  # updates on examples
    preference: int  # updates of each arm after that
    asked: int  # training questions per task, for own answers
    samples: int  # of each of them
    evaluated: int  # held-out questions per task
    pairs: int  # held-out pairs per class of errors
    rates: tuple[float, float, float]  # of pretraining, tuning and preferences


# SmolLM2 135M takes 16 s per update there. The times of the small model are estimates.
SMALL = Sizes(2000, 320, 80, 60, 4, 40, 8, (1e-3, 5e-4, 1e-4))
PRETRAINED = Sizes(0, 90, 36, 20, 4, 15, 3, (0.0, 1e-3, 3e-4))


@dataclasses.dataclass(frozen=True)
class TruthfulnessConfig:
    reports: Path
    """Case reports: a .jsonl, .json, .csv or .parquet file."""
    general: Path
    """General text: a .txt, .jsonl, .json, .csv or .parquet file, or a folder of one of these kinds."""
    out: Path
    """Folder for the results: empty, new, or that of a stopped run with the same settings."""
    hours: float = 3.0
    """Time for everything, by which the numbers of updates, questions and pairs are scaled."""
    smollm2: str = ""
    """Hugging Face folder or hub id of a pretrained model to tune with LoRA; empty pretrains a small model."""
    row_length: int = 1024
    """Tokens per row, which must hold both answers of a pair, each with its note."""
    pieces: int = 4096
    """Vocabulary size of the small model."""
    width: int = 384
    """Hidden size of the small model, a multiple of 64."""
    layers: int = 10
    """Layers of the small model."""
    max_new_tokens: int = 96
    """Most tokens of an answer."""
    seed: int = 0
    """Random seed for patients, questions, answers and initial weights."""

    @property
    def sizes(self) -> Sizes:
        given = PRETRAINED if self.smollm2 else SMALL
        scaled = {
            name: max(2, round(getattr(given, name) * self.hours / 3))
            for name in ("pretraining", "tuning", "preference", "asked", "evaluated", "pairs")
        }
        return dataclasses.replace(given, **scaled)


def run(config: TruthfulnessConfig) -> list[dict[str, Any]]:
    """Tune and evaluate every arm and write the table. Returns its rows."""
    started = time.monotonic()
    check_out(config)
    prepare(config)
    models = tuned_on_examples(config)
    make_own_pairs(config, models[START])
    models |= tuned_further(config, models[START])
    table = measured(config, models)
    write(config, table, facts(config, time.monotonic() - started))
    return table


def check_out(config: TruthfulnessConfig) -> None:
    """Write the settings into the output folder. Raises UserError if it has others, or something else."""
    settings = config.out / "settings.json"
    text = json.dumps({**dataclasses.asdict(config), **dataclasses.asdict(config.sizes)}, default=str, indent=2) + "\n"
    before = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if before != text and config.out.exists() and any(config.out.iterdir()):
        raise UserError(f"--out {config.out} is not empty, and not a run with these settings: name another folder")
    config.out.mkdir(parents=True, exist_ok=True)
    settings.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- texts and rows


def prepare(config: TruthfulnessConfig) -> None:
    """Write packed rows of notes, examples, pairs and general text, and of those that are held out."""
    out = config.out
    say(f"notes and instructions of the offline teacher from {config.reports}")
    once(out / "notes", lambda: notes.run(notes.NotesConfig(str(config.reports), out / "notes")))
    for name in ("plain", "cited"):
        made = out / f"instructions/{name}"
        asked = instructions.InstructionsConfig(out / "notes", made, per_note=3, cite=name == "cited")
        once(made, lambda: instructions.run(asked))  # noqa: B023
    for name in ("plain", "cited", "notes"):
        source = out / (name if name == "notes" else f"instructions/{name}")
        sides = split.SplitConfig(source, out / f"split/{name}", HELD_OUT, seed=config.seed)
        once(out / f"split/{name}/train", lambda: split.run(sides))  # noqa: B023
    texts = split_general(config.general, out / "general", HELD_OUT, config.seed)
    if not config.smollm2 and not (out / "tokenizer.model").exists():
        found = [note.text for p in sorted((out / "notes").glob("notes-*.parquet")) for note in read_parquet(p, Note)]
        train_sentencepiece(found + texts[::10], out / "tokenizer.model", config.pieces)
    for side in ("train", "held_out"):
        for name in ("plain", "cited"):
            packed(config, f"{name}_{side}", out / f"split/{name}/{side}")
        packed(config, f"general_{side}", out / f"general/{side}.jsonl")
    packed(config, "notes", out / "split/notes/train")
    enough = 6 * BATCH * config.sizes.preference  # examples; not every one has a place for an error, or fits
    most, seen = config.sizes.pairs, classes_without(LEFT_OUT)
    for name, side, without, limits in (
        ("planted", "train", LEFT_OUT, {"limit": enough}),
        ("seen", "held_out", LEFT_OUT, {"per_class": most}),
        ("left_out", "held_out", seen, {"per_class": most}),
    ):
        source, made = out / f"split/cited/{side}", out / f"pairs/{name}"
        planted = pairs.PairsConfig(made, source, without=without, seed=config.seed, **limits)
        once(made, lambda: pairs.run(planted))  # noqa: B023
        packed(config, f"pairs_{name}", made)


def packed(config: TruthfulnessConfig, name: str, source: Path) -> None:
    tokenizer = Path(config.smollm2) if config.smollm2 else config.out / "tokenizer.model"
    folder = config.out / "packed" / name
    once(folder, lambda: pack.run(pack.PackConfig(source, folder, tokenizer, config.row_length)))


def make_own_pairs(config: TruthfulnessConfig, model: Path) -> None:
    """Pairs of several answers of a model to each of some training questions, sorted by certificate and citations."""
    out, sizes = config.out / "own", config.sizes
    source = config.out / "split/cited/train"
    drawn = questions.QuestionsConfig(source, out / "questions", sizes.asked, seed=config.seed)
    once(drawn.out, lambda: questions.run(drawn))
    decoding = Decoding(config.max_new_tokens, 0.8, seed=config.seed)
    spec = (f"own=checkpoint:{model}",)
    answers.run(answers.AnswersConfig(out / "questions", spec, out / "answers", decoding, seeds=sizes.samples))
    manifest = pairs.run(pairs.PairsConfig(config.out / "pairs/own", answers=(out / "answers",), per_example=2))
    if not manifest["out"]:
        raise UserError(f"no pairs of own answers: give more than {config.hours:g} --hours")
    packed(config, "pairs_own", config.out / "pairs/own")


# ---------------------------------------------------------------- runs


def settings(config: TruthfulnessConfig, arm: str, cited: bool = True) -> asc.TrainConfig:
    """Settings that all runs share."""
    rows, sizes = config.out / "packed", (config.pieces, config.width, config.layers, 2 * config.row_length)
    held_out = (f"answers={rows}/{'cited' if cited else 'plain'}_held_out", f"general={rows}/general_held_out")
    return asc.TrainConfig(
        run_dir=str(run_of(config, arm)),
        model=config.smollm2 or str(small_model(config.out / "model", *sizes)),
        data=asc.DataConfig(eval_path=held_out, row_length=config.row_length, seed=config.seed),
        batch=asc.BatchConfig(BATCH, 1),
        compute=ComputeConfig("float32", "none"),
        lora=asc.LoraConfig(rank=16, base_dtype="float32") if config.smollm2 else asc.LoraConfig(),
        checkpoint=CheckpointConfig(every_steps=NEVER, keep=1),
        evaluation=EvalConfig(every_steps=NEVER, max_rows=12),
        log=LogConfig(every_steps=20, tensorboard=False, progress=False),
        few_steps=True,
    )


def run_of(config: TruthfulnessConfig, arm: str) -> Path:
    return config.out / "runs" / arm.replace(" ", "_")


def train(
    config: asc.TrainConfig, init: InitConfig, paths: tuple[str, ...], updates: int, rate: float,
    preference: PreferenceConfig,
) -> Path:  # fmt: skip
    """A run of this many updates."""
    data, optimizer = dataclasses.replace(config.data, path=paths), asc.OptimizerConfig(learning_rate=rate)
    config = dataclasses.replace(config, init=init, data=data, preference=preference, optimizer=optimizer)
    return trained(config, updates)


def tuned_on_examples(config: TruthfulnessConfig) -> dict[str, Path]:
    rows, sizes = config.out / "packed", config.sizes
    pretraining, tuning, _ = sizes.rates
    start = InitConfig(hf=config.smollm2, seed=config.seed)
    if not config.smollm2:
        say(f"pretraining: {sizes.pretraining} updates")
        mixed = (f"notes={rows}/notes:0.8", f"general={rows}/general_train:0.2")
        base = train(settings(config, "pretraining"), start, mixed, sizes.pretraining, pretraining, PreferenceConfig())
        start = InitConfig(checkpoint=str(base))
    models = {}
    for arm, name in (("plain examples", "plain"), (START, "cited")):
        say(f"{arm}: {sizes.tuning} updates")
        shared = settings(config, arm, name == "cited")
        models[arm] = train(shared, start, (str(rows / f"{name}_train"),), sizes.tuning, tuning, PreferenceConfig())
    return models


def tuned_further(config: TruthfulnessConfig, model: Path) -> dict[str, Path]:
    """The arms that start from a tuned model, each with as many updates."""
    rows, sizes, start = config.out / "packed", config.sizes, InitConfig(checkpoint=str(model))
    *_, rate = sizes.rates
    for name in ("own", "planted"):
        shared = settings(config, START)
        data = dataclasses.replace(shared.data, path=(str(rows / f"pairs_{name}"),))
        settled, folder = dataclasses.replace(shared, init=start, data=data), rows / f"referenced_{name}"
        once(folder, lambda: reference(settled, str(folder)))  # noqa: B023
    own, planted = (str(rows / f"referenced_{name}") for name in ("own", "planted"))
    paths = {
        "more examples": (str(rows / "cited_train"),),
        "planted errors": (planted,),
        "own answers": (own,),
        "both": (f"own={own}:0.5", f"planted={planted}:0.5"),
    }
    models = {}
    for arm, path in paths.items():
        say(f"{arm}: {sizes.preference} updates")
        preference = PreferenceConfig() if arm == "more examples" else PreferenceConfig(beta=0.1, anchor_weight=0.5)
        shared = settings(config, arm)
        shared = dataclasses.replace(shared, data=dataclasses.replace(shared.data, seed=config.seed + 1))
        models[arm] = train(shared, start, path, sizes.preference, rate, preference)
    return models


# ---------------------------------------------------------------- results


def measured(config: TruthfulnessConfig, models: dict[str, Path]) -> list[dict[str, Any]]:
    say("answers to held-out questions")
    out, sizes = config.out / "evaluation", config.sizes
    drawn = questions.QuestionsConfig(
        config.out / "split/cited/held_out", out / "questions", sizes.evaluated, seed=config.seed
    )
    once(drawn.out, lambda: questions.run(drawn))
    specs = tuple(f"{run_of(config, arm).name}=checkpoint:{models[arm]}" for arm in ARMS)
    decoding = Decoding(config.max_new_tokens)
    answers.run(answers.AnswersConfig(out / "questions", specs, out / "answers", decoding))
    asked = {question.id: question for question in read_records(out / "questions", "questions", Question)}
    given = answers.read_answers((out / "answers",), out / "questions")
    counts = {
        arm: [counts_of(asked[name], answer) for name, answer in sorted(given[run_of(config, arm).name].items())]
        for arm in ARMS
    }
    before, table = [each["unsupported"] for each in counts[START]], []
    for arm, found in counts.items():
        losses = read_metrics(models[arm] / "metrics.jsonl")[-1]
        table.append({
            "arm": arm,
            "answers": len(found),
            "patients": len({each["patient"] for each in found}),
            **{name: dataclasses.asdict(value) for name, value in figures_of(found, before).items()},
            **{f"loss_{name}": losses[f"eval_loss/{name}"] for name in ("answers", "general")},
            **{name: preferred(config, models[arm], name) for name in ("seen", "left_out")},
        })  # fmt: skip
    return table


def counts_of(question: Question, answer: Answer) -> dict[str, Any]:
    """Counts of one answer's statements and citations. An answer that was cut off counts as it is."""
    text = "" if answer.finish_reason in NO_ANSWER else answer.text
    cited = count_citations(question.note, text)
    return {
        "patient": question.cluster,
        "unsupported": float(certify(text, question.note).unsupported),
        "omits": float(judge_answer(question, text)[0].omitted == "significant"),
        "words": float(len(without_citations(text).split())),
        "sentences": cited.sentences, "supported": cited.supported,
        "citations": cited.citations, "needed": cited.needed,
    }  # fmt: skip


def figures_of(found: list[dict[str, Any]], before: list[float]) -> dict[str, Estimate]:
    """Means and shares with 95 % intervals, clustered by patient."""
    patients, ones = [each["patient"] for each in found], [1.0] * len(found)

    def column(name: str) -> list[float]:
        return [float(each[name]) for each in found]

    change = [now - then for now, then in zip(column("unsupported"), before, strict=True)]
    return {
        "unsupported": ratio_of_sums(column("unsupported"), ones, patients),
        "change": ratio_of_sums(change, ones, patients),
        "omits": ratio_of_sums(column("omits"), ones, patients, SHARE),
        "words": ratio_of_sums(column("words"), ones, patients),
        "recall": ratio_of_sums(column("supported"), column("sentences"), patients, SHARE),
        "precision": ratio_of_sums(column("needed"), column("citations"), patients, SHARE),
    }


def preferred(config: TruthfulnessConfig, model: Path, name: str) -> dict[str, Any]:
    """Share of held-out pairs whose true answer is likelier than the one with the planted error."""
    shared, out = settings(config, START), config.out / "evaluation/likelihoods" / model.name / name
    data = dataclasses.replace(shared.data, path=(str(config.out / f"packed/pairs_{name}"),), eval_path=())
    settled = dataclasses.replace(shared, init=InitConfig(checkpoint=str(model)), data=data)
    once(out, lambda: reference(settled, str(out)))
    rows, right = asc.load_rows(str(out)), []
    for index in range(len(rows)):
        row = rows.stored(index)
        for pair in sorted(set(row.pairs) - {0}):
            mine = row.pairs == pair
            chosen, rejected = row.reference[mine & (row.weights > 0)], row.reference[mine & (row.weights < 0)]
            right.append(float(chosen.sum() > rejected.sum()))
    return dataclasses.asdict(ratio_of_sums(right, [1.0] * len(right), list(range(len(right))), SHARE))


def facts(config: TruthfulnessConfig, seconds: float) -> str:
    own, planted = (read_manifest(config.out / f"pairs/{name}", "pairs") for name in ("own", "planted"))
    model = "a pretrained model with LoRA" if config.smollm2 else f"{config.sizes.pretraining} updates of pretraining"
    return (
        f"{model}; {config.sizes.tuning} updates on examples, {config.sizes.preference} after that, {BATCH} rows of "
        f"{config.row_length} tokens each; pairs of own answers: {own['out']} of {own['in']} questions, of planted "
        f"errors: {planted['out']}; left out: {', '.join(LEFT_OUT)}; 95 % intervals by patient (of pairs: by pair); "
        f"seed {config.seed}; {seconds / 60:.0f} minutes."
    )


def shown(value: dict[str, Any], digits: int = 2) -> str:
    if value["value"] is None:
        return "–"
    interval = "" if value["low"] is None else f" ({value['low']:.{digits}f} to {value['high']:.{digits}f})"
    return f"{value['value']:.{digits}f}{interval}"


COLUMNS = {
    "unsupported": "unsupported statements per answer", "change": f"change from “{START}”",
    "omits": "answers with significant omissions", "words": "words", "recall": "citation recall",
    "precision": "citation precision", "seen": "true answer likelier: seen classes", "left_out": "left-out classes",
}  # fmt: skip


def write(config: TruthfulnessConfig, table: list[dict[str, Any]], about: str) -> None:
    (config.out / "table.json").write_text(json.dumps({"about": about, "table": table}, indent=2) + "\n")
    heads = ["tuned on", *COLUMNS.values(), "loss of answers", "loss of general text"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in table:
        cells = [row["arm"], *(shown(row[name], 1 if name == "words" else 2) for name in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} | {row['loss_answers']:.3f} | {row['loss_general']:.3f} |")
    count = f"{table[0]['answers']} answers about {table[0]['patients']} patients per arm; {about}"
    text = "\n".join([*lines, "", count, ""])
    (config.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    try:
        run(tyro.cli(TruthfulnessConfig, description=__doc__))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
