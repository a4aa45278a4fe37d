"""Recall and speed of the faithfulness gate: `python benchmarks/gate.py [NOTES]`.

1. Errors planted by patterns into faithful notes, as in the tests, and the same notes untouched and reworded.
2. Errors on the annotated spans of MACCROBAT: a span is replaced by one of the same type from another report.
3. MEDEC: errors that people made. The corrected text is the source. Nothing in the gate is tuned on it.
"""

import csv
import json
import re
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

from asclepius_jax.evaluate.judge.mutations import CLASSES, is_true_elsewhere  # noqa: E402
from data_prep.faithfulness.atoms.read import read  # noqa: E402
from data_prep.faithfulness.certificate import certify, check, rules_version, source_of  # noqa: E402
from data_prep.teachers.offline.note import write_note  # noqa: E402
from tests.helpers.planted import reworded  # noqa: E402

# Gold types whose words are facts that the gate claims to check, in the order of the table.
GOLD = (
    "Medication", "Dosage", "Lab_value", "Age", "Duration", "Date", "Sign_symptom", "Disease_disorder",
    "Diagnostic_procedure", "Therapeutic_procedure",
)  # fmt: skip


def flagged(text: str, source: str, start: int, end: int) -> bool:
    return any(not f.supported and f.start < end and start < f.end for f in check(text, source))


def alarms(pairs: list[tuple[str, str]]) -> str:
    found = [f for report, note in pairs for f in check(note, report)]
    wrong = Counter(f.atom.kind for f in found if not f.supported)
    return f"{sum(wrong.values())} of {len(found):,} atoms ({sum(wrong.values()) / len(found):.2%}) {dict(wrong) or ''}"


def planted(pairs: list[tuple[str, str]]) -> None:
    print(f"\n## Planted errors, {len(pairs)} notes, rules {rules_version()}\n\n| class | planted | found | recall |")
    print("| --- | --- | --- | --- |")
    for name, plant in CLASSES.items():
        found = count = 0
        for number, (report, note) in enumerate(pairs):
            error = plant(note, Random(f"{name} {number}"))
            if error and not (name in ("drug swapped", "finding invented") and is_true_elsewhere(error, report)):
                count += 1
                found += flagged(error.text, report, error.start, error.end)
        print(f"| {name} | {count} | {found} | {found / count:.3f} |")
    print(f"\nfalse alarms, untouched: {alarms(pairs)}")
    print(f"false alarms, reworded: {alarms([(r, reworded(n, Random(k))) for k, (r, n) in enumerate(pairs)])}")


def gold_spans(path: Path) -> list[tuple[str, int, int]]:
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("T"))
    spans = [row[1].split() for row in rows]
    return [(kind, int(start), int(end)) for kind, start, end in (s for s in spans if len(s) == 3) if kind in GOLD]


def annotated() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((SHARED / "maccrobat").glob("*.txt"))}
    spans = {name: gold_spans(SHARED / "maccrobat" / f"{name}.ann") for name in texts}
    others: dict[str, list[str]] = defaultdict(list)
    for name, text in texts.items():
        for kind, start, end in spans[name]:
            others[kind].append(text[start:end])
    found: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for name, text in texts.items():
        random = Random(name)
        for kind, start, end in random.sample(spans[name], min(12, len(spans[name]))):
            new = random.choice(others[kind])
            if re.search(rf"\b{re.escape(new)}\b", text, re.IGNORECASE):
                continue
            count[kind] += 1
            changed = text[:start] + new + text[end:]
            found[kind] += flagged(changed, text, start, start + len(new))
    print(
        "\n## Annotated spans of MACCROBAT, each replaced by another report's\n\n| type | replaced | found | recall |"
    )
    print("| --- | --- | --- | --- |")
    for kind in GOLD:
        print(f"| {kind} | {count[kind]} | {found[kind]} | {found[kind] / max(1, count[kind]):.3f} |")


def medec() -> None:
    with (SHARED / "medec_ms_validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    count: Counter[str] = Counter()
    found: Counter[str] = Counter()
    outside = atoms = 0
    for row in (row for row in rows if row["Error Flag"] == "1"):
        sentence = " ".join(row["Error Sentence"].split())
        checked = check(row["Text"], row["Corrected Text"])
        wrong = [f for f in checked if not f.supported]
        hits = [
            f for f in wrong if " ".join(f.sentence.split()) in sentence or sentence in " ".join(f.sentence.split())
        ]
        count[row["Error Type"]] += 1
        found[row["Error Type"]] += bool(hits)
        outside += len(wrong) - len(hits)
        atoms += len(checked)
    print("\n## MEDEC, the corrected text as source\n\n| error | texts | found | recall |\n| --- | --- | --- | --- |")
    for kind in count:
        print(f"| {kind} | {count[kind]} | {found[kind]} | {found[kind] / count[kind]:.3f} |")
    print(f"| all | {count.total()} | {found.total()} | {found.total() / count.total():.3f} |")
    print(f"\nflagged outside the sentence with the error: {outside} of {atoms:,} atoms ({outside / atoms:.2%})")
    correct = [(row["Text"], row["Text"]) for row in rows if row["Error Flag"] == "0"]
    print(f"flagged in the {len(correct)} texts without an error, against themselves: {alarms(correct)}")


def speed(pairs: list[tuple[str, str]]) -> None:
    """Copied notes share their sentences with the report, reworded ones hardly: both, from an empty cache."""
    for name, some in (
        ("copied", pairs),
        ("reworded", [(r, reworded(n, Random(k))) for k, (r, n) in enumerate(pairs)]),
    ):
        read.cache_clear()
        source_of.cache_clear()
        started = time.process_time()
        for report, note in some:
            certify(note, report)
        print(f"{name} notes certified per second and core: {len(some) / (time.process_time() - started):.0f}")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 700
    lines = (SHARED / "case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line)["text"] for line in lines]
    pairs = [(report, write_note(report)) for report in reports[:: max(1, len(reports) // count)][:count]]
    planted(pairs)
    annotated()
    medec()
    print("\n## Speed\n")
    speed(pairs)


if __name__ == "__main__":
    main()
