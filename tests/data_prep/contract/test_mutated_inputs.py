"""Whatever bytes a table, a reply, a manifest or a ledger holds, it is read or refused in one line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from data_prep.contract.errors import UserError
from data_prep.contract.folders.folder_lock import LOCK, read_holder
from data_prep.contract.manifests import MANIFEST, check_replaceable, read_manifest, verified_files
from data_prep.contract.records import CaseReport, Note, Reject, read_parquet
from data_prep.ingest.case_reports import ReportsConfig, open_reports
from data_prep.teachers.endpoint.batch.batch_files import read_row
from data_prep.teachers.endpoint.http import error_of
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.replies import read_response, read_usage
from data_prep.teachers.endpoint.transport import Parameters
from tests.helpers.endpoints.fake_endpoint import completion
from tests.helpers.made_inputs import note, write_records
from tests.helpers.mutations import MUTATIONS, OFTEN, changed_bytes, changed_json, trying

REPORT = "A 64-year-old woman was admitted with fever for 3 days, and was given aspirin 100 mg “twice” daily."
ROWS = [{"patient_uid": f"p{k}", "title": "A case", "patient": f"{REPORT} Bed {k}."} for k in range(30)]


def csv_text(separator: str) -> str:
    lines = [separator.join(ROWS[0]), *(separator.join(f'"{value}"' for value in row.values()) for row in ROWS)]
    return "\r\n".join(lines)


def parquet_bytes(folder: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", compression="zstd", write_page_checksum=True)
    return (folder / "rows.parquet").read_bytes()


TABLES: dict[str, Callable[[Path], bytes]] = {
    "a.csv": lambda _: csv_text(",").encode(),
    "a.tsv": lambda _: csv_text("\t").encode(),
    "semicolons.csv": lambda _: csv_text(";").encode("utf-16"),
    "a.jsonl": lambda _: "\n".join(json.dumps(row) for row in ROWS).encode(),
    "a.json": lambda _: json.dumps(ROWS, ensure_ascii=False).encode(),
    "a.txt": lambda _: REPORT.encode("cp1252"),
    "a.csv.gz": lambda _: gzip.compress(csv_text(",").encode()),
    "a.parquet": parquet_bytes,
}


@pytest.mark.parametrize("mutations", [MUTATIONS, OFTEN])
@pytest.mark.parametrize("name", TABLES)
def test_a_mutated_table_is_read_or_refused_in_one_line(tmp_path: Path, name: str, mutations: int):
    content = TABLES[name](tmp_path)
    path = tmp_path / name

    @trying(mutations)
    def mutate(data: st.DataObject) -> None:
        is_json = name in ("a.json",) and data.draw(st.booleans())
        path.write_bytes((changed_json if is_json else changed_bytes)(content, data))
        try:
            records = list(open_reports(str(path), ReportsConfig()).records())
        except UserError as error:
            assert_one_line(str(error))
            return
        assert all(isinstance(record, CaseReport | Reject) for record in records)
        for record in records:
            json.dumps(record.__dict__, ensure_ascii=False).encode()  # as it is stored

    mutate()


def assert_one_line(told: str) -> None:
    assert "\n" not in told
    assert 0 < len(told) < 1500


REPLY = json.loads(completion("A note.", usage=None)[2]) | {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}
ERROR = {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": None, "type": "bad"}}
BATCH = {"custom_id": "k", "response": {"status_code": 400, "body": ERROR}, "error": {"code": "c", "message": "m"}}


@pytest.mark.parametrize("mutations", [5 * MUTATIONS, OFTEN])
@pytest.mark.parametrize("body", [REPLY, ERROR, BATCH], ids=["reply", "error", "batch"])
def test_a_mutated_reply_is_a_reply_or_an_error(body: dict, mutations: int):
    content = json.dumps(body).encode()

    @trying(mutations)
    def mutate(data: st.DataObject) -> None:
        raw_bytes = (changed_json if data.draw(st.booleans()) else changed_bytes)(content, data)
        raw = raw_bytes.decode(errors="replace")
        reply = read_response(raw, "m")
        reply.text.encode()
        assert isinstance(reply.model, str)
        usage = read_usage(raw)
        assert usage is None or 0 <= usage.cached <= usage.prompt <= 10**8
        assert all(isinstance(part, str) for part in error_of(raw))
        Parameters("here", set()).refused(400, raw, {"seed": 1, "max_tokens": 2})
        row = read_row(raw_bytes)
        assert row is None or isinstance(row.key, str)

    mutate()


@pytest.mark.parametrize("mutations", [5 * MUTATIONS, OFTEN])
def test_a_mutated_manifest_is_read_or_refused_in_one_line(tmp_path: Path, mutations: int):
    folder = write_records(tmp_path / "notes", [note("n", REPORT)])
    content = (folder / MANIFEST).read_bytes()

    @trying(mutations)
    def mutate(data: st.DataObject) -> None:
        (folder / MANIFEST).write_bytes((changed_json if data.draw(st.booleans()) else changed_bytes)(content, data))
        for act in (lambda: list(notes_of(folder)), lambda: check_replaceable(folder, "notes")):
            try:
                act()
            except UserError as error:
                assert_one_line(str(error))

    mutate()


def notes_of(folder: Path):
    manifest = read_manifest(folder, "notes")
    assert sum(manifest["rejected"].values()) >= 0
    assert manifest["out"] == sum(file["records"] for file in manifest["files"]) or not manifest["files"]
    for path in verified_files(folder, manifest):
        yield from read_parquet(path, Note)


@pytest.mark.parametrize("mutations", [MUTATIONS, OFTEN])
def test_mutated_shards_ledgers_and_locks_are_read_or_refused_in_one_line(tmp_path: Path, mutations: int):
    folder = write_records(tmp_path / "notes", [note(f"n{k}", REPORT) for k in range(50)])
    shard = next(folder.glob("notes-*.parquet"))
    ledger = Ledger(tmp_path / "a.sqlite")
    ledger.close()
    contents = {path: path.read_bytes() for path in (shard, tmp_path / "a.sqlite")}
    lock = tmp_path / LOCK
    contents[lock] = b'{"host": "a", "pid": 7, "started": "x 1", "pid_namespace": ""}'

    def read_ledger(path: Path) -> None:
        for left in path.parent.glob("a.sqlite-*"):
            left.unlink()
        opened = Ledger(path)
        try:
            opened.take_over()
            opened.counts()
            opened.spent()
        finally:
            opened.close()

    readers = {
        shard: lambda path: list(read_parquet(path, Note)),
        tmp_path / "a.sqlite": read_ledger,
        lock: read_holder,
    }

    @trying(mutations)
    def mutate(data: st.DataObject) -> None:
        for path, content in contents.items():
            path.write_bytes(changed_bytes(content, data))
            try:
                readers[path](path)
            except UserError as error:
                assert_one_line(str(error))

    mutate()
