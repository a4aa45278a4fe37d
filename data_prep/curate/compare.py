"""Comparison of generated notes with real ones: sections, length, abbreviations and bits per byte by type, on one page.

asclepius compare --source data/notes --real mtsamples.jsonl --out compare.html

Bits per byte are measured by compressing a sample with LZMA, "alone" and "after real", that is, following real notes of
the same type. The closer the generated notes come to the figure of other real notes, the more similar their wording.
"""

import html
import json
import lzma
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.clinical_text.headings import ABBREVIATION, HEADING, as_lines, headings_of
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import working_folder, write_durably
from data_prep.contract.manifests import MANIFEST, read_manifest, verified_files
from data_prep.contract.records import Note, read_parquet, seeded_fraction
from data_prep.contract.reports import pages
from data_prep.contract.tables import files_of, rows_of
from data_prep.synthesize.note_types import NOTE_TYPES

SAMPLE_BYTES = 200_000
FEWEST = 10  # Notes per type. With fewer, a comparison is meaningless.
HEADINGS_SHOWN = 12


@dataclass(frozen=True)
class CompareConfig:
    source: Path
    """Finished folder of generated notes."""

    real: Path
    """Real notes: a folder of notes, or a .csv, .json, .jsonl or .parquet file of texts with their types."""

    out: Path = Path("compare.html")
    """HTML page to write; the figures are written next to it as JSON."""

    type_column: str = "types"
    """Column with the type or types of a real note."""

    text_column: str = "text"
    """Column with the text of a real note."""


@dataclass(frozen=True)
class Look:
    """Figures of a set of notes."""

    notes: int
    words: tuple[float, float, float]  # quartiles
    abbreviations: float  # per 100 words
    headings_a_note: float
    headings: list[tuple[str, float]]  # the most common ones, with the share of notes that have them
    bits_alone: float  # bits per byte
    bits_after_real: float


def joined(texts: list[str]) -> bytes:
    return "\n\n".join(texts).encode()


def bits_per_byte(sample: bytes, before: bytes = b"") -> float:
    """Bits per byte that LZMA needs for a sample after `before`.

    A longer sample needs fewer bits per byte, so compare only samples of equal length.
    """

    def size(data: bytes) -> int:
        return len(lzma.compress(data, format=lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))

    return 8 * (size(before + sample) - (size(before) if before else 0)) / len(sample)


def look(texts: list[str], seen: bytes, sample_bytes: int) -> Look:
    """The figures of `texts`. `seen` are real notes, none of them in `texts`, that LZMA compresses first."""
    lengths = [len(text.split()) for text in texts]
    quartiles = statistics.quantiles(lengths, n=4, method="inclusive") if len(lengths) > 1 else lengths * 3
    found = [headings_of(text) for text in texts]
    counts = Counter(heading for headings in found for heading in set(headings))
    sample = joined(texts)[:sample_bytes]
    return Look(
        notes=len(texts),
        words=(quartiles[0], quartiles[1], quartiles[2]),
        abbreviations=100
        * sum(len(ABBREVIATION.findall(HEADING.sub("", text))) for text in texts)
        / max(1, sum(lengths)),
        headings_a_note=statistics.mean(len(set(headings)) for headings in found),
        headings=[(heading, count / len(texts)) for heading, count in counts.most_common(HEADINGS_SHOWN)],
        bits_alone=bits_per_byte(sample),
        bits_after_real=bits_per_byte(sample, seen),
    )


def shuffled(named: list[tuple[str, str]]) -> list[str]:
    return [text for _, text in sorted(named, key=lambda item: seeded_fraction(0, "compare", item[0]))]


def notes_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The (id, text) pairs of a folder's notes by type."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in verified_files(folder, read_manifest(folder, "notes")):
        for note in read_parquet(path, Note):
            found[note.note_type].append((note.id, note.text))
    return found


def real_notes(config: CompareConfig) -> dict[str, list[tuple[str, str]]]:
    """The (name, text) pairs of real notes by types of NOTE_TYPES; a note with several types counts for each."""
    named: Iterator[tuple[str, str, str]]
    if (config.real / MANIFEST).is_file():
        named = ((kind, name, text) for kind, notes in notes_of(config.real).items() for name, text in notes)
    elif config.real.exists():
        named = real_rows(config)
    else:
        raise UserError(f"--real {config.real}: no such file or folder")
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for kind, name, text in named:
        for row in NOTE_TYPES.values():
            if re.search(row.known_as, kind, re.IGNORECASE):
                found[row.name].append((name, as_lines(text)))
    return found


def real_rows(config: CompareConfig) -> Iterator[tuple[str, str, str]]:
    for row in rows_of(files_of(config.real)):
        if row.values is None:
            continue
        missing = [name for name in (config.type_column, config.text_column) if name not in row.values]
        if missing:
            raise UserError(f"{row.place}: no column {', '.join(missing)} among {', '.join(map(str, row.values))}")
        kinds, text = row.values[config.type_column], row.values[config.text_column]
        yield " | ".join(kinds) if isinstance(kinds, list) else str(kinds), row.name, str(text)


def run(config: CompareConfig) -> dict[str, Any]:
    """Write the page and its figures, and return the figures. Raises UserError for errors that the user can fix."""
    if config.out.suffix != ".html":
        raise UserError(f"--out {config.out}: it must end in .html")
    beside = config.out.with_suffix(".json")
    if beside.exists() and not config.out.exists():
        raise UserError(f"{beside}, where the figures would be written, exists without its page: choose another --out")
    generated_by_type, real_by_type = notes_of(config.source), real_notes(config)
    figures: dict[str, Any] = {}
    for name in NOTE_TYPES:
        generated, real = shuffled(generated_by_type.get(name, [])), shuffled(real_by_type.get(name, []))
        if len(generated) < FEWEST or len(real) < FEWEST:
            figures[name] = {"ours": len(generated), "real": len(real), "compared": False}
            continue
        # LZMA sees half of the real notes first; the other half shows how many bits real notes then need.
        seen, unseen = joined(real[::2])[:SAMPLE_BYTES], real[1::2]
        size = min(SAMPLE_BYTES, len(joined(generated)), len(joined(unseen)))
        looks = {"ours": asdict(look(generated, seen, size)), "real": asdict(look(unseen, seen, size))}
        figures[name] = {**looks, "compared": True}
    if not any(figure["compared"] for figure in figures.values()):
        raise UserError(
            f"no type has {FEWEST} notes in both {config.source} and {config.real}: generate more types with "
            "--note-types all, or set the column of types with --type-column"
        )
    with working_folder(config.out.absolute()):
        write_durably(beside, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        write_durably(config.out, page(figures))
    compared = sum(figure["compared"] for figure in figures.values())
    print(f"compare: {compared} types of notes -> {config.out}", flush=True)
    return figures


# ---------------------------------------------------------------- the page

ROWS = (
    ("Words, median (quartiles)", lambda x: f"{x['words'][1]:.0f} ({x['words'][0]:.0f}–{x['words'][2]:.0f})"),
    ("Headings per note", lambda x: f"{x['headings_a_note']:.1f}"),
    ("Abbreviations per 100 words", lambda x: f"{x['abbreviations']:.1f}"),
    ("Bits per byte, alone", lambda x: f"{x['bits_alone']:.2f}"),
    ("Bits per byte, after real notes", lambda x: f"{x['bits_after_real']:.2f}"),
)


def page(figures: dict[str, Any]) -> str:
    parts = [section(name, figure) for name, figure in figures.items() if figure["compared"]]
    left_out = [f"{name} ({f['ours']} and {f['real']})" for name, f in figures.items() if not f["compared"]]
    skipped = html.escape(", ".join(left_out))
    skipped = f'<p class="quiet">Too few notes to compare (ours and real): {skipped}.</p>' if skipped else ""
    title = "Our notes and real notes"
    about = (
        "Sections, length, abbreviations and compressed size in bits per byte, by type of note. After real notes, text "
        "with similar wording needs fewer bits."
    )
    return pages.page(title, f"<h1>{title}</h1><p>{about}</p>{''.join(parts)}{skipped}")


def section(name: str, figure: dict[str, Any]) -> str:
    ours, real = figure["ours"], figure["real"]
    head = ("", f"ours ({ours['notes']:,})", f"real ({real['notes']:,})")
    rows = ((label, show(ours), show(real)) for label, show in ROWS)
    sides = f'<div class="grid">{headings("ours", ours)}{headings("real", real)}</div>'
    return f"<h2>{html.escape(name.capitalize())}</h2>{pages.table(head, rows)}{sides}"


def headings(side: str, figures: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(heading)}</td><td class="n">{share:.0%}</td>'
        f'<td><span class="bar" style="width:{8 * share:.2f}rem"></span></td></tr>'
        for heading, share in figures["headings"]
    )
    return f"<div><h3>Headings, {side}</h3><table>{rows}</table></div>"
