"""Every form in which case reports come, and every way in which they come broken."""

import csv
import json
import tracemalloc

import pytest

from data_prep.contract import tables
from data_prep.contract.errors import UserError
from data_prep.contract.reading import json_rows
from data_prep.contract.records import CaseReport, Reject
from data_prep.ingest.case_reports import ReportsConfig, open_reports
from tests.helpers.places import ROOT, SHARED

PMC_COLUMNS = ["patient_id", "patient_uid", "PMID", "title", "patient", "age", "gender", "relevant_articles"]


def pmc_row(k):
    text = f'Patient {k}, a "56-year-old", said:\nµ, {{"x": [1]}}, and more.'
    return dict(
        zip(
            PMC_COLUMNS,
            [k, f"{7000 + k}-1", 8000 + k, f"Title {k}", text, [[56.0, "year"]], "F", {"8": 1}],
            strict=True,
        )
    )


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, PMC_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path, rows, **options):
    path.write_text(json.dumps(rows, **options), encoding="utf-8")
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**row, "age": "", "relevant_articles": ""} for row in rows]), path)
    return path


def read(source, **config):
    """The reports and the rejects of a collection."""
    records = list(open_reports(str(source), ReportsConfig(**config)).records())
    return [r for r in records if isinstance(r, CaseReport)], [r for r in records if isinstance(r, Reject)]


WRITERS = {
    "reports.csv": write_csv,
    "reports.json": write_json,
    "indented.json": lambda path, rows: write_json(path, rows, indent=2),
    "reports.jsonl": write_jsonl,
    "lines.json": write_jsonl,
    "reports.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_pmc_patients_in_every_form(tmp_path, name):
    reports, rejects = read(WRITERS[name](tmp_path / name, [pmc_row(k) for k in range(5)]))
    assert rejects == []
    assert reports == [
        CaseReport(
            id=f"{7000 + k}-1",
            text=pmc_row(k)["patient"],
            source="PMC-Patients",
            licence="CC BY-NC-SA 4.0",
            article=str(8000 + k),
            title=f"Title {k}",
        )
        for k in range(5)
    ]


@pytest.mark.parametrize("chunk", [1, 7, 64, 100_000])
def test_a_json_list_reads_the_same_through_any_window(tmp_path, monkeypatch, chunk):
    rows = [{"id": k, "text": f'\\u00b5 "{k}" \\ }} , {{ ] [ é\u2028😀', "n": [-1.5e-7, True, None]} for k in range(40)]
    for options in ({}, {"indent": 1}, {"ensure_ascii": False}):
        path = write_json(tmp_path / "a.json", rows, **options)
        monkeypatch.setattr(json_rows, "CHUNK", chunk)
        reports, rejects = read(path)
        assert [(r.id, r.text) for r in reports] == [
            (str(row["id"]), row["text"].replace("\u2028", "\n")) for row in rows
        ]
        assert rejects == []


@pytest.mark.parametrize("suffix", ["csv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("json", "jsonl"))])
def test_a_large_file_is_not_held_in_memory(tmp_path, suffix):
    rows = [{**pmc_row(k), "patient": f"{k} " + "long text " * 2000} for k in range(500)]
    path = WRITERS[f"reports.{suffix}"](tmp_path / f"a.{suffix}", rows)
    del rows
    tracemalloc.start()
    assert sum(1 for _ in open_reports(str(path), ReportsConfig()).records()) == 500
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 10e6
    assert peak < 8e6


def test_json_lines_keep_their_own_source_and_licence(tmp_path):
    row = {
        "id": "EN1",
        "corpus": "E3C",
        "licence": "CC BY 4.0",
        "doi": "10.1/x",
        "url": "http://u",
        "source": "J",
        "text": "T",
    }
    reports, _ = read(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert reports == [CaseReport("EN1", "T", "J", "CC BY 4.0", "10.1/x", "", "http://u")]
    reports, _ = read(tmp_path / "a.jsonl", licence="CC0", source_name="mine")
    assert (reports[0].licence, reports[0].source) == ("CC0", "mine")


def test_a_folder_of_text_files(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"report {name}\n")
        (tmp_path / f"{name}.ann").write_text("T1")
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    reports, rejects = read(tmp_path)
    assert [(r.id, r.text, r.licence) for r in reports] == [("a", "report a", "unknown"), ("b", "report b", "unknown")]
    assert [(r.id, r.reason) for r in rejects] == [("c.txt", "malformed")]
    assert "caf\\udce9" in rejects[0].record


def test_a_folder_of_files_of_one_kind_and_of_two(tmp_path):
    for k in range(2):
        write_jsonl(tmp_path / f"{k}.jsonl", [{"text": f"t{k}"}])
    reports, _ = read(tmp_path)
    assert [(r.id, r.text) for r in reports] == [("0-1", "t0"), ("1-1", "t1")]
    (tmp_path / "x.csv").write_text("text\nx\n")
    with pytest.raises(UserError, match=r"several kinds \(\.csv, \.jsonl\)"):
        read(tmp_path)


def test_a_data_set_through_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"id": f"h{k}", "text": f"t{k}"} for k in range(3)])
    rows, version = tables.open_hub(str(folder))
    assert [row.values["id"] for row in rows] == ["h0", "h1", "h2"]
    assert version


def test_what_is_no_path_and_no_hub_id(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("absent.csv", "folder/absent.jsonl", "/tmp/none/at/all", "absent", "a/b/c", "tests/absent"):
        with pytest.raises(UserError, match="no such file or folder"):
            read(name)


def test_what_is_neither_here_nor_on_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def absent(name, **_):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", absent)
    with pytest.raises(UserError, match="someone/reports: no such file, and loading it from the hub failed") as caught:
        read("someone/reports")
    assert "\n" not in str(caught.value)


def test_a_malformed_row_is_rejected_with_its_line_and_the_run_goes_on(tmp_path):
    lines = [json.dumps({"id": k, "text": f"t{k}"}) for k in range(150)]
    lines[6] = '{"id": 6, "text": "cut'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    reports, rejects = read(tmp_path / "a.jsonl")
    assert len(reports) == 149
    assert [(r.id, r.reason) for r in rejects] == [("a.jsonl:7", "malformed")]
    assert rejects[0].record.startswith('{"id": 6')


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[]",
        "null",
        '{"id": 1}',
        '{"text": 5.5}',
        '{"text": true}',
        '{"text": "\\ud800"}',
        "{'text': 'x'}",
        "[" * 99999,
    ],
)
def test_each_way_in_which_a_line_is_malformed(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n" + '{"text": "also good"}\n')
    reports, rejects = read(tmp_path / "a.jsonl")
    assert [r.text for r in reports] == ["good", "also good"]
    assert [(r.id, r.reason) for r in rejects] == [("a.jsonl:2", "malformed")]


def test_malformed_csv_rows(tmp_path):
    path = tmp_path / "a.csv"
    good = "".join(f'{k},"line one\nline two of {k}"\n' for k in range(3))
    path.write_bytes(b"id,text\n" + good.encode() + b"7,one,too many\n8,caf\xe9\n9\n" + b'10,"last"\n')
    with pytest.raises(UserError, match="3 of the first 7 rows are malformed"):
        read(path)
    path.write_bytes(b"id,text\n" + good.encode() + b"7,one,too many\n" + b'10,"last"\n')
    reports, rejects = read(path)
    assert [r.id for r in reports] == ["0", "1", "2", "10"]
    assert [(r.id, r.detail) for r in rejects] == [("a.csv:8", "3 fields under 2 columns")]


def test_a_quotation_mark_that_nobody_closes_does_not_eat_the_file_silently(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,good\n" + '2,"never closed\n' + "".join(f"{k},text {k}\n" for k in range(3, 9)))
    with pytest.raises(
        UserError, match=r"a\.csv:3: not CSV .* from lines 3 to 9 on .* close the quotation mark at '\"never"
    ):
        read(path)


@pytest.mark.parametrize("chunk", [16, 100_000])
@pytest.mark.parametrize("broken", ['{"text": nonsense}', '{"text": "a" "b"}', '{"id": 3 "text": {"x": [1, 2}}', "5"])
def test_a_broken_item_of_a_json_list(tmp_path, monkeypatch, chunk, broken):
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    good = [json.dumps({"id": k, "text": f"t{k}"}) for k in range(4)]
    (tmp_path / "a.json").write_text("[" + ",\n".join([good[0], broken, *good[1:]]) + "]")
    reports, rejects = read(tmp_path / "a.json")
    assert [r.id for r in reports] == ["0", "1", "2", "3"]
    assert [(r.id, r.reason) for r in rejects] == [("a.json:2", "malformed")]


def test_a_json_list_that_is_cut_off(tmp_path):
    text = json.dumps([{"id": k, "text": f"t{k}"} for k in range(5)])
    for cut in (text[:-1], text[:-2], text[:-9]):
        (tmp_path / "a.json").write_text(cut)
        reports, rejects = read(tmp_path / "a.json")
        assert len(reports) >= 4
        assert [r.reason for r in rejects] == ["malformed"]


def test_more_than_one_percent_malformed_stops(tmp_path):
    lines = [json.dumps({"text": f"t{k}"}) for k in range(400)]
    for k in (10, 110, 210, 310):
        lines[k] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert len(read(tmp_path / "a.jsonl")[0]) == 396
    lines[311] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        UserError, match=r"a: 5 of the first 400 rows are malformed, more than 1%; the last: a.jsonl:312"
    ):
        read(tmp_path / "a.jsonl")


def test_a_hopeless_file_stops_long_before_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n' + "nonsense\n" * 10_000)
    with pytest.raises(UserError, match="99 of the first 100 rows"):
        read(tmp_path / "a.jsonl")


def test_a_cluster_of_bad_rows_at_the_start_is_no_verdict(tmp_path):
    good = [json.dumps({"text": f"t{k}"}) for k in range(2000)]
    (tmp_path / "a.jsonl").write_text("\n".join([good[0], *["{"] * 11, *good[1:]]))
    assert len(read(tmp_path / "a.jsonl")[0]) == 2000


def test_what_the_first_row_leaves_out_is_read_from_the_others(tmp_path):
    rows = [{"text": "t0"}, {"text": "t1", "licence": "CC0", "doi": "10.1/x"}, {"note": "t2", "licence": "CC BY-NC"}]
    reports, _ = read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [(r.licence, r.article) for r in reports] == [("unknown", ""), ("CC0", "10.1/x"), ("CC BY-NC", "")]


def test_the_article_is_in_whichever_of_its_columns_is_filled(tmp_path):
    """Two patients of one article, of which the table has the PubMed number for one and the address for the other."""
    (tmp_path / "a.csv").write_text(
        "text,PMID,doi,pmcid,url\nt0,,https://doi.org/10.1/AB,,http://u\nt1,,10.1/ab,7,\nt2,12.0,,7,\nt3,,,7,\n"
        "t4,,,,https://pubmed.ncbi.nlm.nih.gov/12/\nt5,,,,\n"
    )
    reports, _ = read(tmp_path / "a.csv")
    assert [report.article for report in reports] == ["10.1/ab", "10.1/ab", "12", "PMC7", "12", ""]


def test_columns_are_named_where_none_holds_the_text(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body_text": "t", "n": 1}])
    with pytest.raises(UserError, match=r"no text column among the columns: body_text, n; set it with --text-column"):
        read(path)
    with pytest.raises(UserError, match="--text-column nix is not among the columns: body_text, n"):
        read(path, text_column="nix")
    assert read(path, text_column="body_text")[0][0].text == "t"


def test_an_id_that_came_before_is_rejected(tmp_path):
    reports, rejects = read(write_jsonl(tmp_path / "a.jsonl", [{"id": i, "text": f"t{i}"} for i in "aba"]))
    assert [r.id for r in reports] == ["a", "b"]
    assert [(r.id, r.reason, r.detail) for r in rejects] == [("a", "duplicate_id", "a.jsonl:3")]


def test_an_empty_text_is_rejected(tmp_path):
    reports, rejects = read(write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "  "}, {"id": "b", "text": None}]))
    assert reports == []
    assert [(r.id, r.reason) for r in rejects] == [("a", "empty"), ("b", "empty")]


def test_files_that_are_not_what_their_name_says(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "a.json").write_text("no")
    (tmp_path / "a.docx").write_text("no")
    (tmp_path / "empty").mkdir()
    for name, says in [
        ("a.parquet", "not a Parquet"),
        ("a.json", "neither"),
        ("a.docx", "'.docx'"),
        ("empty", "no files"),
    ]:
        with pytest.raises(UserError, match=says):
            read(tmp_path / name)


def test_the_input_has_a_hash_that_moves_with_its_content(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "t"}])
    first = open_reports(str(path), ReportsConfig()).inputs, open_reports(str(tmp_path), ReportsConfig()).inputs
    write_jsonl(path, [{"text": "u"}])
    second = open_reports(str(path), ReportsConfig()).inputs, open_reports(str(tmp_path), ReportsConfig()).inputs
    assert all(a != b and a.keys() == b.keys() for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the shared data is not beside the repository")
def test_real_case_reports():
    reports, rejects = read((SHARED / "data") / "case_reports.jsonl")
    assert len(reports) + len(rejects) == 1449
    # Reports on dogs, horses and pigs, nearly all from journals of veterinary medicine; see test_scope.
    assert {reject.reason for reject in rejects} == {"animal"}
    assert len(rejects) < 20
    assert all(r.licence.startswith("CC BY") and r.article for r in reports)
    assert len(read((SHARED / "data") / "maccrobat")[0]) == 98
