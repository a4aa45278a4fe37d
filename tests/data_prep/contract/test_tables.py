"""What is read of a file is what it holds: no row is lost, doubled or taken from elsewhere without a word."""

import bz2
import gzip
import json
import lzma
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.reading import source_files
from data_prep.contract.reading.characters import plain_text, plain_text_with_places
from data_prep.contract.reading.rows import Row, Values
from data_prep.contract.reading.source_files import SourceFile, content_of, stem_of
from data_prep.contract.tables import files_of, looks_like_hub_id, read_text_file, rows_of


def read(path: Path) -> list[Row]:
    return list(rows_of(files_of(path)))


def values(path: Path) -> list[dict]:
    rows = read(path)
    assert not [row.error for row in rows if row.values is None]
    return [dict(row.values or {}) for row in rows]


def refused(path: Path, says: str) -> str:
    with pytest.raises(UserError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROWS = [f'{k},"text {k}, of one line"\n' for k in range(200)]


def table(path: Path, *replaced: tuple[int, str]) -> Path:
    rows = list(ROWS)
    for number, row in replaced:
        rows[number] = row
    return written(path, "id,text\n" + "".join(rows))


# ---------------------------------------------------------------- quotation marks


@pytest.mark.parametrize(
    ("number", "row", "line", "quote"),
    [
        (1, '1,"never closed\n', 3, '"never closed 2,"text 2'),
        (50, '50,"he said "ouch" and\nBP 120/80, HR 70\nleft"\n', 52, '"he said "ouch" and'),
        (50, '50,"a line\nanother "quoted" line\nthe last"\n', 52, '"a line another'),
        (50, '50,"a "b", of one line"\n', 52, '"a "b", of one line"'),
        (50, '50,5" nail in foot, too many\n', 52, '" nail in foot'),
        # The next text begins with a line feed, so that its opening mark seems to close the field before it.
        (50, '50,"never closed\n51,"\nText, on a new line"\n', 52, '"never closed 51,"'),
        (198, '198,"never closed\n199,unquoted\n', 200, '"never closed 199,unquoted'),
    ],
)
def test_a_quotation_mark_that_may_swallow_rows_stops_the_run_at_its_place(tmp_path, number, row, line, quote):
    told = refused(table(tmp_path / "a.csv", (number, row)), r"not CSV .* close the quotation mark at")
    assert f"a.csv:{line}: " in told
    assert quote in told


def test_the_mark_is_found_after_other_fields_of_many_lines(tmp_path):
    row = '"1","a\nb","never closed\n"2","c\nd","e"\n'
    told = refused(written(tmp_path / "a.csv", f"id,one,two\n{row}"), "not CSV")
    assert "a.csv:3: " in told
    assert '"never closed' in told


@pytest.mark.parametrize(
    "row",
    ['50,"he said "ouch" and left"\n', "50,one,two\n", "50\n", f"50,{'x' * 10**7}y\n"],
)
def test_a_row_that_is_certainly_one_row_is_lost_alone(tmp_path, row):
    rows = read(table(tmp_path / "a.csv", (50, row)))
    assert [row.place for row in rows if row.values is None] == ["a.csv:52"]
    assert len(rows) == 200


def test_the_last_row_is_lost_alone(tmp_path):
    rows = read(table(tmp_path / "a.csv", (199, '199,"cut o')))
    assert [row.place for row in rows if row.values is None] == ["a.csv:201"]
    assert len(rows) == 200


@pytest.mark.parametrize("header", ['id,"text\n', '"id"x,text\n'])
def test_a_header_with_a_stray_quotation_mark_is_refused(tmp_path, header):
    refused(written(tmp_path / "a.csv", header + "".join(ROWS)), r"a\.csv:1: not CSV")


@pytest.mark.parametrize("text", ["\nline " * 5000, '\n"" said, he\n""', 'ends with a comma,\n"",'])
def test_fields_of_many_lines_are_rows(tmp_path, text):
    rows = values(table(tmp_path / "a.csv", (50, f'50,"{text}"\n')))
    assert rows[50]["text"] == text.replace('""', '"')
    assert len(rows) == 200


def test_inches_are_no_quotation_marks(tmp_path):
    assert values(table(tmp_path / "a.csv", (50, '50,a 5" nail\n')))[50]["text"] == 'a 5" nail'


def test_a_field_of_many_lines_that_is_too_long_is_no_field(tmp_path):
    refused(table(tmp_path / "a.csv", (50, '50,"' + "x y z\n" * 1_700_000 + '"\n')), r"a\.csv:52: .*field larger than")


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize("header", ["id,text,text", "id,text,Text", "id,text,text ", "ID,Id,text"])
def test_columns_of_one_name_are_refused(tmp_path, header):
    refused(written(tmp_path / "a.csv", f"{header}\n1,a,b\n"), r"a\.csv:1: two columns have one name, '(text|ID)' and")


@pytest.mark.parametrize("name", ["text", "TEXT", "text "])
def test_columns_of_one_name_are_refused_in_parquet(tmp_path, name):
    columns = [pa.array([text]) for text in ("1", "a", "b")]
    pq.write_table(pa.Table.from_arrays(columns, names=["id", "text", name]), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", f"two columns have one name, 'text' and '{name}'")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_key_that_an_object_repeats_makes_it_malformed(tmp_path, suffix):
    good = [json.dumps({"id": k, "text": [{"a": 1}, {"b": 2}]}) for k in range(3)]
    lines = [good[0], '{"text": [{"a": 1}, {"b": 2}], "text": 2}', good[1], '{"text": 1, "Text": 2}', good[2]]
    text = "\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]"
    rows = read(written(tmp_path / f"a.{suffix}", text))
    assert [row.values is None for row in rows] == [False, True, False, True, False]
    assert "text occurs twice" in rows[1].error
    assert "'text' and 'Text'" in rows[3].error


def test_a_column_is_found_whatever_its_case(tmp_path):
    (row,) = read(written(tmp_path / "a.csv", " ID , Text \n1,a\n"))
    assert isinstance(row.values, Values)
    assert (row.values["text"], row.values.get("TEXT"), "id" in row.values) == ("a", "a", True)
    assert row.values.get("title", "none") == "none"
    with pytest.raises(KeyError):
        row.values["title"]
    assert dict(row.values) == {"ID": "1", "Text": "a"}


def test_separators_are_found_in_the_header_and_named(tmp_path, capsys):
    for name, separator in (("semicolons", ";"), ("tabs", "\t"), ("vertical bars", "|")):
        path = written(
            tmp_path / f"{name}.csv",
            'id,text\n1,"a,;\t|b"\n'.replace("id,", f"id{separator}").replace("1,", f"1{separator}"),
        )
        assert values(path) == [{"id": "1", "text": "a,;\t|b"}]
        assert f"separated by {name}" in capsys.readouterr().err
    assert values(written(tmp_path / "a.tsv", "id\ttext\n1\ta,b\n")) == [{"id": "1", "text": "a,b"}]
    assert values(written(tmp_path / "excel.csv", "sep=;\r\nid;a,b,c\r\n1;2\r\n")) == [{"id": "1", "a,b,c": "2"}]
    assert values(written(tmp_path / "one.csv", "text\na; b; c\n")) == [{"text": "a; b; c"}]


# ---------------------------------------------------------------- bytes


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
FORMATS = {
    ".csv": "id,text\n1,a\n2,µ\n",
    ".tsv": "id\ttext\n1\ta\n2\tµ\n",
    ".jsonl": '{"id": "1", "text": "a"}\n{"id": "2", "text": "µ"}\n',
    ".json": '[{"id": "1", "text": "a"}, {"id": "2", "text": "µ"}]',
    ".txt": "a\nµ\n",
}


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("kind", FORMATS)
def test_compressed_text_is_read(tmp_path, kind, compression):
    data = FORMATS[kind].encode()
    plain = values(written(tmp_path / f"a{kind}", data))
    path = written(tmp_path / f"packed{kind}{compression}", PACK[compression](data))
    assert values(path) == plain
    assert stem_of(path) == "packed"
    assert not looks_like_hub_id(f"someone/reports{kind}{compression}")
    # Several parts behind one another, as written by parallel compressors and by `cat`.
    assert values(written(path, PACK[compression](data[:9]) + PACK[compression](data[9:]))) == plain


@pytest.mark.parametrize("compression", PACK)
def test_a_compressed_file_that_is_damaged_is_named(tmp_path, compression):
    packed = PACK[compression](random.Random(0).randbytes(3000).hex().encode())
    zeros = packed[:40] + bytes(900) + packed[940:]
    # Zstandard need not contain a checksum.
    for content in (packed[:-9], b"id,text\n1,a\n", *((zeros,) if compression != ".zst" else ())):
        refused(written(tmp_path / f"a.csv{compression}", content), "damaged")
    refused(written(tmp_path / f"b.csv{compression}", PACK[compression](b"")), "is empty")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_found_and_named(tmp_path, capsys, encoding):
    text = "Fièvre “of 39 °C”, 5 × 10 µg"
    path = written(tmp_path / "a.csv", f"id;text\n1;{text}\n2;plain\n".encode(encoding))
    assert values(path) == [{"id": "1", "text": text}, {"id": "2", "text": "plain"}]
    said = capsys.readouterr().err
    assert said.count("read as") == (encoding != "utf-8-sig")
    assert ("Windows-1252" in said) == (encoding == "cp1252")
    assert values(written(tmp_path / "b.jsonl", json.dumps({"text": text}, ensure_ascii=False).encode(encoding)))


def test_files_of_an_old_encoding_are_named_in_one_line(tmp_path, capsys):
    for k in range(5):
        written(tmp_path / f"{k}.txt", f"fièvre à {k}".encode("cp1252"))
    assert [row["text"] for row in values(tmp_path)] == [f"fièvre à {k}" for k in range(5)]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_few_wrong_bytes_spoil_their_rows_and_not_the_encoding(tmp_path):
    path = written(tmp_path / "a.csv", "text\n5 µg\n".encode() * 20 + b"caf\xe9\n")
    assert [row.values["text"] for row in read(path)][-2:] == ["5 µg", "caf\udce9"]


NO_TEXT = {
    "GBK": "患者因发热入院治疗三天后好转出院".encode("gbk"),
    "KOI8": "больной поступил в клинику".encode("koi8-r"),
    "noise": random.Random(0).randbytes(4000),
    "zeros": bytes(4000),
    "PDF": b"%PDF-1.7 text",
    "zip": b"PK\x03\x04 text",
    "gzip": gzip.compress(b"text"),
    "Parquet": b"PAR1 text",
}


@pytest.mark.parametrize("kind", NO_TEXT)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_what_is_no_text_is_refused(tmp_path, kind, suffix):
    refused(written(tmp_path / f"a{suffix}", NO_TEXT[kind]), "not text|not a text|neither")


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl", ".parquet"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    refused(written(tmp_path / f"a{suffix}", ""), "is empty")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".parquet"])
@pytest.mark.parametrize("change", ["shrinks", "grows", "is replaced", "is rewritten with its old time"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch, suffix, change):
    monkeypatch.setattr(source_files, "CHUNK", 256)
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": [f"text {k}" for k in range(999)]}), path)
    else:
        written(path, "".join(json.dumps({"text": f"text {k}"}) + "\n" for k in range(999)).replace(",", ";"))
    files = files_of(path)
    assert content_of(path, files)
    status, data = path.stat(), path.read_bytes()
    if change == "is replaced":
        written(tmp_path / "new", data).rename(path)
    elif change == "is rewritten with its old time" and suffix != ".parquet":
        written(path, data.replace(b"text 7", b"text 8"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        rows = rows_of(files)
        next(rows)
        written(path, data[: len(data) // 2] if change == "shrinks" else data + data)
        if suffix == ".txt":
            return  # one row, which has been read
        with pytest.raises(UserError, match="changed while it was read"):
            list(rows)
        return
    with pytest.raises(UserError, match="changed while it was read"):
        list(rows_of(files))


def test_files_of_one_name_in_two_folders_are_two_places_and_two_ids(tmp_path):
    for ward in ("a", "b"):
        written(tmp_path / "texts" / ward / "1.txt", f"text {ward}")
        written(tmp_path / "tables" / ward / "1.csv.gz", gzip.compress(f"text\n{ward}\n".encode()))
    assert [(row.name, row.place) for row in read(tmp_path / "texts")] == [("a/1", "a/1.txt"), ("b/1", "b/1.txt")]
    assert [row.name for row in read(tmp_path / "tables")] == ["a/1-2", "b/1-2"]
    assert [row.place for row in read(tmp_path / "tables")] == ["a/1.csv.gz:2", "b/1.csv.gz:2"]


def test_a_folder_is_read_whole_or_refused(tmp_path):
    written(tmp_path / "elsewhere/1.csv", "text\nlinked\n")
    written(tmp_path / "a/1.csv", "text\nfound\n")
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    assert [row["text"] for row in values(tmp_path / "a")] == ["found", "linked"]
    (tmp_path / "a/2.csv").symlink_to("/nowhere")
    refused(tmp_path / "a", "is a link to /nowhere, which does not exist")
    (tmp_path / "a/2.csv").unlink()
    written(tmp_path / "a/1.csv.gz", gzip.compress(b"text\nfound\n"))
    refused(tmp_path / "a", "contains both 1.csv and 1.csv.gz")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "contains no files of a known kind")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a.csv", "text\na\n")

    def deny(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    refused(path, "a.csv cannot be read: Permission denied")


# ---------------------------------------------------------------- Parquet


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_page_of_parquet_that_is_damaged_is_named(tmp_path, compression):
    path = tmp_path / "a.parquet"
    texts = [random.Random(k).randbytes(30).hex() for k in range(500)]
    pq.write_table(
        pa.table({"text": texts}), path, compression=compression, use_dictionary=False, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    refused(written(path, bytes(data)), "a.parquet .*damaged")


def test_text_after_a_json_list_is_not_ignored(tmp_path):
    refused(written(tmp_path / "a.json", '[{"text": "a"}]\n[{"text": "b"}]'), r"a\.json:2: text after the end")
    assert values(written(tmp_path / "b.json", '[{"text": "a"}]\n\n')) == [{"text": "a"}]


# ---------------------------------------------------------------- characters


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("page\fnext\vline\u2028line\u2029paragraph", "page\nnext\nline\nline\n\nparagraph"),
        ("p\x00a\x00i\x00n \x07\x1b\x7f", "pain "),
        ("\ufeffhyper\u200bten\u00adsion \u200e\u2060of", "hypertension of"),
        ("hyper\u00ad\n  tension", "hypertension"),
        ("5\u00a0mg\u2009of\u202fit\u3000", "5 mg of it "),
        ("\x93quoted\x94 \x96 5 \x80", "“quoted” – 5 €"),
        ("12\u2009000 and 1\u202f234\u202f567 cells, 1.5\u2009000", "12,000 and 1,234,567 cells, 1.5 000"),
        ("µ, é, 😀, naïve, 5×10³\ttab", "µ, é, 😀, naïve, 5×10³\ttab"),
    ],
)
def test_characters_are_plain_wherever_text_enters(tmp_path, text, plain):
    assert plain_text(text) == plain
    mapped, places = plain_text_with_places(text)
    assert mapped == plain
    assert len(places) == len(text) + 1
    assert places[-1] == len(plain)
    assert all(plain[places[k]] == text[k] for k in range(len(text)) if text[k].isascii() and text[k].isalnum())
    (row,) = values(written(tmp_path / "a.jsonl", json.dumps({"text": text, "more": [{"deep": text}]})))
    assert row == {"text": plain, "more": [{"deep": plain}]}
    path = written(tmp_path / "note", text)
    assert read_text_file(path) == plain
    assert SourceFile(path, "note").format == ""
