"""Known overlap between questions and the models' training data, from folders of `asclepius split`.

    data/split/report.json               similarity, evaluation sets that were compared, rejected records
    data/split/train  held_out           their manifests have the hashes from which questions and runs are recognised

A folder that a model was trained on is known for checkpoints of this project only, whose run has the hash of its data.
Of every other model the training data are unknown, and the statement says so.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.answers.answers import found_folders
from asclepius_jax.evaluate.judge.kinship import content
from asclepius_jax.evaluate.records import Question
from data_prep.clinical_text.near_duplicates import RUN_WORDS
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import Example, Note, read_parquet, text_hash
from data_prep.ingest.article_ids import article_id

SHINGLE_WORDS = 5  # of the near-duplicate search, see `clinical_text.near_duplicates`
MOST_ANCESTORS = 8
UNKNOWN = "unknown"


def contamination_of(
    splits: Iterable[Path], questions_folder: Path, questions: Mapping[str, Question], models: Mapping[str, Any]
) -> dict[str, Any]:
    """The statement: what each split compared and has in common with the questions, and what models were trained on.

    models: as `models_of` gives them. Raises UserError for a folder that `asclepius split` did not write.
    """
    inputs = set(read_manifest(questions_folder, "questions")["inputs"].values())
    found, trained = [], {}
    for split in splits:
        report = report_of(split)
        manifests = {side: read_manifest(split / side, "notes", "instructions") for side in ("train", "held_out")}
        hashes = {side: content_hash(manifest) for side, manifest in manifests.items()}
        trained[hashes["train"]] = f"the training side of {split}"
        trained[hashes["held_out"]] = f"the held-out side of {split}"
        found.append(
            {
                "split": str(split),
                "kind": manifests["train"]["kind"],
                "questions_are_held_out": hashes["held_out"] in inputs,
                "similarity": report["similarity"],
                "shingle_words": SHINGLE_WORDS,
                "run_words": RUN_WORDS,
                "against": report["against"],
                "rejected": report["rejected"],
                "train": report["train"],
                "held_out": report["held_out"],
                **overlap(split / "train", manifests["train"], questions),
            }
        )
    return {
        "splits": found,
        "models": {name: training_of(name, known, trained) for name, known in sorted(models.items())},
    }


def report_of(split: Path) -> dict[str, Any]:
    try:
        report = json.loads((split / "report.json").read_text(encoding="utf-8"))
        if {"similarity", "against", "rejected", "train", "held_out"} <= report.keys():
            return report
    except (OSError, ValueError, AttributeError):
        pass
    raise UserError(f"--split {split}: not a folder that asclepius split wrote")


def content_hash(manifest: Mapping[str, Any]) -> str:
    return text_hash(*(file["sha256"] for file in manifest["files"]))


def overlap(train: Path, manifest: Mapping[str, Any], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Patients and articles of the questions that are also on the training side, read from its records."""
    record_type: type[Note] | type[Example] = Note if manifest["kind"] == "notes" else Example
    patients, articles = set(), set()
    for path in verified_files(train, dict(manifest)):
        for record in read_parquet(path, record_type):
            patients.add((record.source, record.report_id))
            articles.add(article_id(record.article))
    asked = {(q.source, q.report_id) for q in questions.values() if q.report_id}
    from_articles = {q.article for q in questions.values() if q.article}
    return {
        "patients": len(asked),
        "patients_in_train": len(asked & patients),
        "articles": len(from_articles),
        "articles_in_train": len(from_articles & articles),
        "questions_without_patient": sum(not q.report_id for q in questions.values()),
    }


# ---------------------------------------------------------------- models


def models_of(answers: Collection[Path], claimed: Collection[str]) -> dict[str, Any]:
    """The place of each model whose answers are given, and True if its training data are known by the authors' account.

    Raises UserError for a claim about a model without answers."""
    places: dict[str, str] = {}
    for folder in found_folders(list(answers)) if answers else ():
        manifest = read_manifest(folder, "answers")
        spec = manifest.get("model")
        if isinstance(spec, dict) and not manifest.get("variant_of"):
            places[spec["name"]] = spec["place"] if spec["kind"] == "checkpoint" else ""
    if unknown := sorted(set(claimed) - set(places)):
        raise UserError(f"--trained-on {unknown[0]}: no answers of this model; choose from {', '.join(places)}")
    return {name: {"place": place, "claimed": name in claimed} for name, place in places.items()}


def training_of(name: str, known: Mapping[str, Any], trained: Mapping[str, str]) -> str:
    """Description of the training data of a model; for a run, also of the runs that it started from."""
    if known["claimed"]:
        return "the training side, by the authors' account"
    if not known["place"]:
        return UNKNOWN
    found, place = [], Path(known["place"])
    for _ in range(MOST_ANCESTORS):
        packed = content(place / "data_manifest.json").get("inputs")
        if packed is None:
            found.append(f"the data of {place.name}: {UNKNOWN}")
            break
        found += [
            trained.get(hash_of, f"{folder}, which is of no split given here") for folder, hash_of in packed.items()
        ]
        init = content(place / "config.json").get("init") or {}
        started = str(init.get("checkpoint") or init.get("hf") or "") if isinstance(init, dict) else ""
        if not started:
            break
        place = Path(started)
    return "; ".join(dict.fromkeys(found)) or UNKNOWN
