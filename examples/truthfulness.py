"""Compare ways to tune a model towards answers that its notes support.

Six models are tuned: on plain examples, on examples that cite, and from the latter on, for the same number of updates,
on more of these examples, on planted errors, on pairs of the model's own answers, and on both kinds of pairs. On
patients whom none of them has seen, the table compares unsupported statements, omissions, length and citations of their
answers, their losses, and how often they find the true answer likelier than one with a planted error, apart for classes
of errors that the tuning left out:

    python examples/truthfulness.py --reports case_reports.jsonl --general general_text.jsonl --out runs/truthfulness
    python examples/truthfulness.py --reports case_reports.jsonl --general text/ --out runs/smollm2 --smollm2 MODEL

The default sizes take some three hours on two CPU cores, and --hours scales them. Outputs: table.md and table.json.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import tyro

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
from data_prep.contract.records import Note, Reject, read_parquet, seeded_fraction
from data_prep.contract.tokenizer import train_sentencepiece
from data_prep.curate import split
from data_prep.curate.pairs import pairs
from data_prep.curate.pairs.planted_pairs import classes_without
from data_prep.faithfulness.certificate import certify
from data_prep.pack import plain_text
from data_prep.pack import run as pack
from data_prep.synthesize import instructions, notes

# Classes of errors that no arm is tuned on.
LEFT_OUT = ("side", "negation", "duration")
START = "examples that cite"  # the arm that the following ones start from
ARMS = ("plain examples", START, "more examples", "planted errors", "own answers", "both")
ROW_LENGTH, BATCH = 1024, 2  # tokens per row, which holds a pair; rows per update
HELD_OUT = 0.2  # of the patients, and of the general documents
NEVER = 10**9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers that fit in three hours on two cores, with the peak learning rates."""

    pretraining: int  # updates
    tuning: int  # updates on examples
    preference: int  # updates of each arm after that
    asked: int  # training questions per task, for own answers
    samples: int  # of each of them
    evaluated: int  # held-out questions per task
    pairs: int  # held-out pairs per class of errors
    rates: tuple[float, float, float]  # of pretraining, tuning and preferences


SMALL = Sizes(2400, 320, 80, 60, 4, 40, 8, (1e-3, 5e-4, 1e-4))
PRETRAINED = Sizes(0, 160, 60, 20, 4, 30, 3, (0.0, 1e-3, 3e-4))


@dataclasses.dataclass(frozen=True)
class TruthfulnessConfig:
    reports: Path
    """Case reports: a .jsonl, .json, .csv or .parquet file."""
    general: Path
    """General text: a .txt, .jsonl, .json, .csv or .parquet file, or a folder of one of these kinds."""
    out: Path
    """Folder for the results; it must be empty or new."""
    hours: float = 3.0
    """Time for everything, by which the numbers of updates, questions and pairs are scaled."""
    smollm2: str = ""
    """Hugging Face folder or hub id of a pretrained model to tune with LoRA; empty pretrains a small model."""
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
    if config.out.exists() and any(config.out.iterdir()):
        raise UserError(f"--out {config.out} is not empty: remove it, or name another folder")
    prepare(config)
    models = tuned_on_examples(config)
    make_own_pairs(config, models[START])
    models |= tuned_further(config, models[START])
    table = measured(config, models)
    write(config, table, facts(config, time.monotonic() - started))
    return table


def say(text: str) -> None:
    print(f"== {text}", flush=True)


# ---------------------------------------------------------------- texts and rows


def prepare(config: TruthfulnessConfig) -> None:
    """Write packed rows of notes, examples, pairs and general text, and of those that are held out."""
    out = config.out
    say(f"notes and instructions of the offline teacher from {config.reports}")
    notes.run(notes.NotesConfig(str(config.reports), out / "notes"))
    for name in ("plain", "cited"):
        made = out / f"instructions/{name}"
        instructions.run(instructions.InstructionsConfig(out / "notes", made, per_note=3, cite=name == "cited"))
        split.run(split.SplitConfig(made, out / f"split/{name}", HELD_OUT, seed=config.seed))
    texts = split_general(config)
    if not config.smollm2:
        found = [note.text for p in sorted((out / "notes").glob("notes-*.parquet")) for note in read_parquet(p, Note)]
        train_sentencepiece(found + texts[::10], out / "tokenizer.model", 4096)
    for side in ("train", "held_out"):
        for name in ("plain", "cited"):
            packed(config, f"{name}_{side}", out / f"split/{name}/{side}")
        packed(config, f"general_{side}", out / f"general/{side}.jsonl")
    split.run(split.SplitConfig(out / "notes", out / "split/notes", HELD_OUT, seed=config.seed))
    packed(config, "notes", out / "split/notes/train")
    planted = out / "split/cited"
    enough = 6 * BATCH * config.sizes.preference  # examples; not every one has a place for an error, or fits
    pairs.run(
        pairs.PairsConfig(out / "pairs/planted", planted / "train", without=LEFT_OUT, seed=config.seed, limit=enough)
    )
    packed(config, "pairs_planted", out / "pairs/planted")
    seen = classes_without(LEFT_OUT)
    for name, without in (("seen", LEFT_OUT), ("left_out", seen)):
        made, most = out / f"pairs/{name}", config.sizes.pairs
        pairs.run(pairs.PairsConfig(made, planted / "held_out", without=without, per_class=most, seed=config.seed))
        packed(config, f"pairs_{name}", made)


def packed(config: TruthfulnessConfig, name: str, source: Path) -> None:
    tokenizer = Path(config.smollm2) if config.smollm2 else config.out / "tokenizer.model"
    pack.run(pack.PackConfig(source, config.out / "packed" / name, tokenizer, ROW_LENGTH))


def split_general(config: TruthfulnessConfig) -> list[str]:
    """Write the documents of general text to two files, drawn at random. Returns those to train on."""
    reading = plain_text.TextConfig()
    found = plain_text.documents_in(plain_text.open_corpus(config.general, reading), reading)
    sides: dict[str, list[str]] = {"train": [], "held_out": []}
    for document in found:
        if not isinstance(document, Reject):
            part = seeded_fraction(config.seed, document.id, document.text)
            sides["held_out" if part < HELD_OUT else "train"].append(document.text)
    (config.out / "general").mkdir(parents=True)
    for side, texts in sides.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (config.out / f"general/{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    return sides["train"]


def make_own_pairs(config: TruthfulnessConfig, model: Path) -> None:
    """Pairs of several answers of a model to each of some training questions, sorted by certificate and citations."""
    out, sizes = config.out / "own", config.sizes
    questions.run(
        questions.QuestionsConfig(config.out / "split/cited/train", out / "questions", sizes.asked, seed=config.seed)
    )
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
    rows = config.out / "packed"
    held_out = (f"answers={rows}/{'cited' if cited else 'plain'}_held_out", f"general={rows}/general_held_out")
    return asc.TrainConfig(
        run_dir=str(run_of(config, arm)),
        model=config.smollm2 or str(small_model(config)),
        data=asc.DataConfig(eval_path=held_out, row_length=ROW_LENGTH, seed=config.seed),
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


def small_model(config: TruthfulnessConfig) -> Path:
    """A folder with the config.json of the small LLaMA."""
    folder, heads = config.out / "model", config.width // 64
    folder.mkdir(exist_ok=True)
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4096,
        "hidden_size": config.width, "intermediate_size": 3 * config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 2 * ROW_LENGTH,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape, indent=2))
    return folder


def train(
    config: asc.TrainConfig, init: InitConfig, paths: tuple[str, ...], updates: int, rate: float,
    preference: PreferenceConfig,
) -> Path:  # fmt: skip
    """A run of this many updates; of several folders, the first one's passes give their number."""
    first = paths[0].partition("=")[2].rpartition(":")[0] if len(paths) > 1 else paths[0]
    share = float(paths[0].rpartition(":")[2]) if len(paths) > 1 else 1.0
    epochs = updates * BATCH * share / read_manifest(Path(first), "packed")["rows"]
    data = dataclasses.replace(config.data, path=paths, epochs=epochs)
    return asc.train(
        dataclasses.replace(
            config, init=init, data=data, preference=preference, optimizer=asc.OptimizerConfig(learning_rate=rate)
        )
    )


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
        reference(dataclasses.replace(shared, init=start, data=data), str(rows / f"referenced_{name}"))
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
    questions.run(drawn)
    specs = tuple(f"{run_of(config, arm).name}=checkpoint:{models[arm]}" for arm in ARMS)
    decoding = Decoding(config.max_new_tokens)
    answers.run(answers.AnswersConfig(out / "questions", specs, out / "answers", decoding))
    asked = {question.id: question for question in read_records(out / "questions", "questions", Question)}
    given = answers.read_answers((out / "answers",), out / "questions")
    table, first = [], None
    for arm in ARMS:
        found = [counts_of(asked[name], answer) for name, answer in sorted(given[run_of(config, arm).name].items())]
        first = first or {"unsupported": [0.0] * len(found)}
        if arm == START:
            first = {"unsupported": [each["unsupported"] for each in found]}
        losses = read_metrics(models[arm] / "metrics.jsonl")[-1]
        table.append({
            "arm": arm,
            "answers": len(found),
            "patients": len({each["patient"] for each in found}),
            **{name: dataclasses.asdict(value) for name, value in figures_of(found, first["unsupported"]).items()},
            **{f"loss_{name}": losses[f"eval_loss/{name}"] for name in ("answers", "general")},
            **{name: preferred(config, models[arm], name) for name in ("seen", "left_out")},
        })  # fmt: skip
    return table


def counts_of(question: Question, answer: Answer) -> dict[str, Any]:
    """What one answer states, leaves out and cites. An answer that was cut off counts as it is."""
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
    reference(dataclasses.replace(shared, init=InitConfig(checkpoint=str(model)), data=data), str(out))
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
        f"{ROW_LENGTH} tokens each; pairs of own answers: {own['out']} of {own['in']} questions, of planted errors: "
        f"{planted['out']}; left out: {', '.join(LEFT_OUT)}; 95 % intervals by patient (of pairs: by pair); seed "
        f"{config.seed}; {seconds / 60:.0f} minutes."
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
