"""Recall and false alarms of the faithfulness gate, as markdown tables.

    python benchmarks/gate.py [--reports N] [SECTION ...]

facts        one error of the eleven classes of single facts in notes of the offline teacher (as in the tests)
meaning      one error of the classes of meaning in untouched case reports, each checked against itself
notes        the same classes in notes of the offline teacher
faithful     untouched reports and notes, and notes reworded by rule: everything flagged is a false alarm
statements   statements in other words, written by hand (`statements.jsonl`), a faithful and a wrong form of each
cases        ../shared/cases: pairs, paraphrases, measures, absence
dialogues    MTS-Dialog: sections of notes that people wrote, against the dialogue
medec        MEDEC: errors that people made, against the corrected text
maccrobat    annotated spans of MACCROBAT, each replaced by another report's
speed        notes certified per second and core

Without sections, all but `notes` and `maccrobat`. Nothing in the gate is tuned on the last five texts or on the
statements of the set `hold`. Intervals are Wilson's, at 95 %.
"""

import argparse
import csv
import importlib.util
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))

from asclepius_jax.evaluate.statistics import estimates  # noqa: E402
from data_prep.faithfulness import certificate  # noqa: E402
from data_prep.faithfulness.certificate import certify, check, rules_version  # noqa: E402
from data_prep.synthesize.planted.meaning import MEANING  # noqa: E402
from data_prep.synthesize.planted.mutations import CLASSES, Planted, is_true_elsewhere  # noqa: E402
from data_prep.teachers.offline.note import write_note  # noqa: E402
from tests.helpers.planted import in_other_words, reworded  # noqa: E402

# Annotated types whose words are facts that the gate claims to check, in the order of the table.
ANNOTATED = (
    "Medication", "Dosage", "Lab_value", "Age", "Duration", "Date", "Sign_symptom", "Disease_disorder",
    "Diagnostic_procedure", "Therapeutic_procedure",
)  # fmt: skip
TRIES = 3  # errors of one class in one report
NAMES = ("drug swapped", "finding invented")  # no error if the report happens to contain the new name
FINDINGS = ("pneumonia", "ascites", "diarrhea")  # put into the sentences of ../shared/cases/negations.txt

Class = Callable[[str, Random], Planted | None]
Pairs = list[tuple[str, str]]  # source, text


def rate(found: int, count: int) -> str:
    """For 3 of 4: `3/4 = 75.0% (30.1%–95.4%)`; a dash for none of none."""
    estimate = estimates.rate([True] * found + [False] * (count - found))
    if estimate.value is None:
        return "–"
    return f"{found:,}/{count:,} = {estimate.value:.1%} ({estimate.low:.1%}–{estimate.high:.1%})"


def table(title: str, head: list[str], rows: list[list[Any]]) -> None:
    print(f"\n## {title}\n")
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print("| " + " | ".join(map(str, row)) + " |")
    sys.stdout.flush()


def is_flagged(text: str, source: str, start: int = 0, end: int = sys.maxsize) -> bool:
    return any(not f.supported and f.start < end and start < f.end for f in check(text, source))


@cache
def reports() -> list[str]:
    lines = (SHARED / "data" / "case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@cache
def report_of(name: str) -> str:
    lines = (SHARED / "data" / "case_reports.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row["text"] for row in map(json.loads, lines) if row["id"] == name)


@cache
def notes(count: int) -> Pairs:
    """Reports from all over the collection, with the offline teacher's discharge summaries."""
    every = max(1, len(reports()) // count)
    return [(report, write_note(report)) for report in reports()[::every][:count]]


# ---------------------------------------------------------------- planted errors


def planted(plant: Class, name: str, pairs: Pairs, most: int) -> Iterator[tuple[str, Planted]]:
    """At most `most` errors from all over the texts, several in one text only where there are too few."""
    made: set[str] = set()
    for attempt in range(TRIES):
        for number, (source, text) in enumerate(pairs):
            if len(made) >= most:
                return
            error = plant(text, Random(f"{name} {number}" + (f" {attempt}" if attempt else "")))
            if error is None or error.text in made or (name in NAMES and is_true_elsewhere(error, source)):
                continue
            if error.phrase and error.phrase.lower() in source.lower():
                continue
            made.add(error.text)
            yield source, error


def recalls(classes: dict[str, Class], pairs: Pairs, most: int) -> list[list[Any]]:
    rows = []
    all_found = all_planted = 0
    for name, plant in classes.items():
        errors = list(planted(plant, name, pairs, most))
        found = sum(is_flagged(error.text, source, error.start, error.end) for source, error in errors)
        all_found, all_planted = all_found + found, all_planted + len(errors)
        rows.append([name, rate(found, len(errors))])
    return [*rows, ["all", rate(all_found, all_planted)]]


def facts(count: int) -> None:
    pairs = notes(min(count, 700))
    rows = recalls(CLASSES, pairs, len(pairs))
    table(f"Errors of single facts, planted into {len(pairs)} notes", ["class", "recall"], rows)


def meaning(count: int) -> None:
    pairs = [(report, report) for report in Random(0).sample(reports(), min(count, len(reports())))]
    rows = recalls(MEANING, pairs, 300)
    table(f"Errors of meaning, one edit in one of {len(pairs):,} reports", ["class", "recall"], rows)


def in_notes(count: int) -> None:
    pairs = notes(min(count, 700))
    rows = recalls(MEANING, pairs, 300)
    table(f"Errors of meaning, one edit in one of {len(pairs)} notes", ["class", "recall"], rows)


# ---------------------------------------------------------------- faithful texts


def alarms(pairs: Pairs) -> list[str]:
    found = [finding for source, text in pairs for finding in check(text, source)]
    wrong = Counter(f.atom.kind for f in found if not f.supported)
    kinds = ", ".join(f"{kind} {number}" for kind, number in wrong.most_common(6))
    return [rate(wrong.total(), len(found)), kinds or "–"]


def faithful(count: int) -> None:
    whole = reports()[:: max(1, len(reports()) // count)][:count]
    pairs = notes(min(count, 700))
    rows = [
        ["reports against themselves", *alarms([(report, report) for report in whole])],
        ["notes, untouched", *alarms(pairs)],
        ["notes in a chart's hand", *alarms([(r, reworded(n, Random(k))) for k, (r, n) in enumerate(pairs)])],
        ["notes in other words", *alarms([(r, in_other_words(n, Random(k))) for k, (r, n) in enumerate(pairs)])],
    ]
    table("Faithful texts", ["text", "statements flagged", "most often"], rows)


# ---------------------------------------------------------------- statements and cases


def statements(_: int) -> None:
    lines = (ROOT / "benchmarks" / "statements.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[tuple[str, bool, bool]]] = defaultdict(list)
    for row in map(json.loads, lines):
        source = report_of(row["report"])
        found[row["set"]].append((row["kind"], is_flagged(row["wrong"], source), is_flagged(row["faithful"], source)))
    for name, results in found.items():
        kinds = [*sorted({kind for kind, *_ in results}), "all"]
        rows = []
        for kind in kinds:
            some = [r for r in results if kind in ("all", r[0])]
            rows.append([kind, *(rate(sum(r[k] for r in some), len(some)) for k in (1, 2))])
        table(f"Statements in other words, set `{name}`", ["kind", "recall", "false alarms"], rows)


def shared_cases() -> Any:
    path = SHARED / "cases" / "faithfulness.py"
    spec = importlib.util.spec_from_file_location("faithfulness_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def absence() -> Iterator[tuple[bool, bool]]:
    """The presence of the finding by `negations.txt`, and the gate's flag for a note that says that it is present."""
    for line in (SHARED / "cases" / "negations.txt").read_text(encoding="utf-8").splitlines():
        form = line.removeprefix("+ ")
        for finding in FINDINGS:
            source = form.replace("{F}", finding.capitalize()).replace("{f}", finding)
            yield line.startswith("+ "), is_flagged(f"The patient had {finding}.", source)


def cases(_: int) -> None:
    module = shared_cases()
    found: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for kind, source, right, wrong in module.PAIRS:
        found[kind].append((is_flagged(wrong, source), is_flagged(right, source)))
    every = [result for results in found.values() for result in results]
    rows = [
        [name, rate(sum(r[0] for r in results), len(results)), rate(sum(r[1] for r in results), len(results))]
        for name, results in [*found.items(), ("all pairs", every)]
    ]
    paraphrases = [is_flagged(text, source) for source, text in module.PARAPHRASES]
    rows.append(["paraphrases", "–", rate(sum(paraphrases), len(paraphrases))])
    with (SHARED / "cases" / "measures.tsv").open(encoding="utf-8") as file:
        measures = [(r["same"], is_flagged(r["note"], r["source"])) for r in csv.DictReader(file, delimiter="\t")]
    absent = list(absence())
    for name, wrong, right in (
        ("measures", [f for same, f in measures if same == "no"], [f for same, f in measures if same == "yes"]),
        ("absence", [f for there, f in absent if not there], [f for there, f in absent if there]),
    ):
        rows.append([name, rate(sum(wrong), len(wrong)), rate(sum(right), len(right))])
    table("Cases of ../shared/cases", ["kind", "recall", "false alarms"], rows)


# ---------------------------------------------------------------- texts by people


def dialogues(_: int) -> None:
    """Sections whose writer listened to the dialogue: most of what is flagged is a false alarm, but not all."""
    by_type: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path in sorted((SHARED / "data" / "mts_dialog").glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                findings = check(row["section_text"], row["dialogue"])
                by_type[row["section_header"]].append((sum(not f.supported for f in findings), len(findings)))
    by_type["all"] = [result for results in by_type.values() for result in results]
    rows = [
        [name, rate(sum(w for w, _ in some), sum(n for _, n in some)), rate(sum(w > 0 for w, _ in some), len(some))]
        for name, some in sorted(by_type.items(), key=lambda item: (item[0] == "all", -len(item[1])))
    ]
    table("MTS-Dialog, sections against the dialogue", ["section", "statements flagged", "sections flagged"], rows)


def medec(_: int) -> None:
    with (SHARED / "data" / "medec_ms_validation.csv").open(encoding="utf-8") as file:
        texts = list(csv.DictReader(file))
    count: Counter[str] = Counter()
    found: Counter[str] = Counter()
    outside = statements_checked = 0
    for row in (row for row in texts if row["Error Flag"] == "1"):
        sentence = " ".join(row["Error Sentence"].split())
        checked = check(row["Text"], row["Corrected Text"])
        wrong = [" ".join(f.sentence.split()) for f in checked if not f.supported]
        hits = [flagged for flagged in wrong if flagged in sentence or sentence in flagged]
        count[row["Error Type"]] += 1
        found[row["Error Type"]] += bool(hits)
        outside += len(wrong) - len(hits)
        statements_checked += len(checked)
    rows = [[kind, rate(found[kind], count[kind])] for kind in count]
    rows.append(["all", rate(found.total(), count.total())])
    table("MEDEC, the corrected text as source", ["error", "recall"], rows)
    correct = [(row["Text"], row["Text"]) for row in texts if row["Error Flag"] == "0"]
    print(f"\nflagged outside the sentence with the error: {rate(outside, statements_checked)}")
    print(f"flagged in {len(correct)} texts without an error, against themselves: {alarms(correct)[0]}")


def spans_of(path: Path) -> list[tuple[str, int, int]]:
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("T"))
    spans = [row[1].split() for row in rows]
    return [(kind, int(start), int(end)) for kind, start, end in (s for s in spans if len(s) == 3) if kind in ANNOTATED]


def maccrobat(_: int) -> None:
    folder = SHARED / "data" / "maccrobat"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    spans = {name: spans_of(folder / f"{name}.ann") for name in texts}
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
            found[kind] += is_flagged(text[:start] + new + text[end:], text, start, start + len(new))
    rows = [[kind, rate(found[kind], count[kind])] for kind in ANNOTATED]
    table("Annotated spans of MACCROBAT, each replaced by another report's", ["type", "recall"], rows)


def speed(count: int) -> None:
    """Copied notes share their sentences with the report, reworded ones hardly: both, from empty caches."""
    pairs = notes(min(count, 700))
    rows = []
    for name, some in (
        ("copied", pairs),
        ("reworded", [(r, reworded(n, Random(k))) for k, (r, n) in enumerate(pairs)]),
    ):
        for cached in (value for value in vars(certificate).values() if hasattr(value, "cache_clear")):
            cached.cache_clear()
        started = time.process_time()
        for report, note in some:
            certify(note, report)
        rows.append([name, f"{len(some) / (time.process_time() - started):.0f}"])
    table("Speed", ["notes", "certified per second and core"], rows)


SECTIONS: dict[str, Callable[[int], None]] = {
    "facts": facts, "meaning": meaning, "notes": in_notes, "faithful": faithful, "statements": statements,
    "cases": cases, "dialogues": dialogues, "medec": medec, "maccrobat": maccrobat, "speed": speed,
}  # fmt: skip
LONG = ("notes", "maccrobat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--reports", type=int, default=1449, help="case reports to use, at most 700 for notes")
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"{unknown[0]}: choose from {', '.join(SECTIONS)}")
    print(f"# Rules {rules_version()}")
    for name in options.sections or [name for name in SECTIONS if name not in LONG]:
        SECTIONS[name](options.reports)


if __name__ == "__main__":
    main()
