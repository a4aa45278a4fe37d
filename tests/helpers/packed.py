"""Packed folders and what they hold."""

import itertools
from pathlib import Path

from data_prep.contract.manifests import read_manifest
from data_prep.contract.records import PackedRow
from data_prep.pack.run import PackConfig, run
from tests.helpers.made_inputs import write_records

Document = tuple[list[int], list[bool]]  # ids and loss mask
ROW = 256


def read_rows(folder: Path) -> list[PackedRow]:
    from array_record.python.array_record_module import ArrayRecordReader

    manifest = read_manifest(folder, "packed")
    rows = []
    for file in manifest["files"]:
        reader = ArrayRecordReader(str(folder / file["name"]))
        weighted = manifest["phase"] == "preference"
        rows += [PackedRow.from_bytes(record, manifest["token_dtype"], weighted) for record in reader.read_all()]
        reader.close()
    return rows


def documents(folder: Path) -> list[Document]:
    """Every segment of every row."""
    found = []
    for row in read_rows(folder):
        ends = list(itertools.accumulate(row.segment_lengths.tolist()))
        for start, end in zip([0, *ends], ends, strict=False):
            found.append((row.tokens[start:end].tolist(), row.loss_mask[start:end].tolist()))
    return found


def packed(tmp_path: Path, records: list, tokenizer: Path, **options) -> Path:
    source = write_records(tmp_path / "source", records)
    options = {"row_length": ROW, "workers": 1, **options}
    run(PackConfig(source, tmp_path / "packed", tokenizer, **options))
    return tmp_path / "packed"
