"""Plain text to rows: files, tables and data sets on the hub, spread over shards without being held in memory."""

import json
import tracemalloc
from pathlib import Path

import pytest

from data_prep.contract import tables
from data_prep.contract.errors import UserError
from data_prep.contract.records import Reject, read_parquet
from data_prep.contract.tokenizer import JsonTokenizer, encode
from data_prep.execution.parts import JoinConfig, settings_of_stage
from data_prep.pack import plain_text
from data_prep.pack.plain_text import TextConfig, open_corpus, spool
from data_prep.pack.run import PackConfig, run
from tests.helpers.made_inputs import note, sentences, write_records
from tests.helpers.packed import ROW, documents

TEXTS = sentences(30, 30)


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": k, field: text}) + "\n" for k, text in enumerate(texts)))
    return path


def write_txt(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for k, text in enumerate(texts):
        (folder / f"{k:03d}.txt").write_text(text)
    return folder


def write_table(path: Path, texts: list[str], **columns: list) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": texts, **columns}), path)
    return path


def packed(source: Path, tokenizer: Path, shards: int = 1, **options) -> Path:
    out = source.with_name(f"{source.name}-packed-{shards}")
    text = TextConfig(**options)
    run(PackConfig(source, out, tokenizer, ROW, shards=shards, text=text, workers=1))
    return out


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("form", ["jsonl", "txt", "parquet", "jsonl.gz"])
def test_each_text_is_one_document_from_bos_to_eos(tmp_path: Path, small_tokenizer: Path, form: str):
    import gzip

    if form == "txt":
        source = write_txt(tmp_path / "corpus", TEXTS)
    elif form == "parquet":
        source = write_table(tmp_path / "corpus.parquet", TEXTS)
    else:
        source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
        if form == "jsonl.gz":
            source = tmp_path / "corpus.jsonl.gz"
            source.write_bytes(gzip.compress((tmp_path / "corpus.jsonl").read_bytes()))
    folder = packed(source, small_tokenizer, licence="CC BY-SA 4.0", source_name="wiki")
    tokenizer = JsonTokenizer(small_tokenizer)
    found = documents(folder)
    assert sorted(tokenizer.decode(ids) for ids, _ in found) == sorted(TEXTS)
    for ids, mask in found:
        assert ids == [tokenizer.bos_id, *encode(tokenizer, tokenizer.decode(ids)), tokenizer.eos_id]
        assert mask == [False] + [True] * (len(ids) - 1)
    manifest = manifest_of(folder)
    expected = {"phase": "pretrain", "documents": 30, "in": 30, "rejected": {}, "licences": {"CC BY-SA 4.0": 30},
                "sources": {"wiki": 30}, "restricted": False}  # fmt: skip
    assert {name: manifest[name] for name in expected} == expected
    names = {"manifest.json", "packed-00000-of-00001.array_record", "rejected.parquet", "tokenizer"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_long_text_is_cut_into_pieces(tmp_path: Path, small_tokenizer: Path):
    text = " ".join(sentences(30, 40))
    folder = packed(write_jsonl(tmp_path / "corpus.jsonl", [text]), small_tokenizer)
    tokenizer = JsonTokenizer(small_tokenizer)
    whole = [tokenizer.bos_id, *encode(tokenizer, text), tokenizer.eos_id]
    pieces = [whole[start : start + ROW] for start in range(0, len(whole), ROW)]
    assert sorted(ids for ids, _ in documents(folder)) == sorted(pieces)


def test_documents_go_to_the_shards_in_turn(tmp_path: Path, small_tokenizer: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    folder = packed(source, small_tokenizer, shards=3)
    tokenizer = JsonTokenizer(small_tokenizer)
    for shard in range(3):
        alone = write_jsonl(tmp_path / f"{shard}.jsonl", TEXTS[shard::3])
        name = f"packed-{shard:05d}-of-00003.array_record"
        one = packed(alone, small_tokenizer) / "packed-00000-of-00001.array_record"
        assert (folder / name).read_bytes() == one.read_bytes()
    assert sorted(tokenizer.decode(ids) for ids, _ in documents(folder)) == sorted(TEXTS)


def test_the_number_of_workers_and_parts_changes_no_byte(tmp_path: Path, small_tokenizer: Path):
    texts = [*TEXTS[:7], "", *TEXTS[7:]]
    source = write_jsonl(tmp_path / "corpus.jsonl", texts)
    for workers in (1, 2):
        run(PackConfig(source, tmp_path / f"{workers}", small_tokenizer, ROW, shards=4, workers=workers))
    for part in ("1/2", "2/2"):
        run(PackConfig(source, tmp_path / "parts", small_tokenizer, ROW, shards=4, workers=1, part=part))
    folders = tuple(tmp_path / f"parts.part-{number}-of-2" for number in (1, 2))
    run(settings_of_stage(JoinConfig(folders, tmp_path / "joined"), "pack", PackConfig))
    for file in sorted(path.name for path in (tmp_path / "1").iterdir() if path.is_file()):
        for other in ("2", "joined"):
            assert (tmp_path / "1" / file).read_bytes() == (tmp_path / other / file).read_bytes(), (file, other)
    assert manifest_of(tmp_path / "1")["rejected"] == {"empty": 1}
    assert manifest_of(tmp_path / "1")["in"] == 31


def test_a_corpus_ends_at_the_largest_number_of_documents(tmp_path: Path, small_tokenizer: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    folder = packed(source, small_tokenizer, max_documents=5)
    tokenizer = JsonTokenizer(small_tokenizer)
    assert sorted(tokenizer.decode(ids) for ids, _ in documents(folder)) == sorted(TEXTS[:5])
    assert manifest_of(folder)["in"] == 5


def test_a_field_of_another_name(tmp_path: Path, small_tokenizer: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS, field="content")
    assert len(documents(packed(source, small_tokenizer, text_field="content"))) == 30
    with pytest.raises(UserError, match="no text in 'text' among the columns: id, content; set --text-field"):
        packed(source, small_tokenizer, shards=2)


def test_unreadable_rows_are_rejected(tmp_path: Path, small_tokenizer: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", [*sentences(200, 10), "  "])
    source.write_text(source.read_text().replace('"id": 3,', '"id": 3'))
    folder = packed(source, small_tokenizer)
    assert manifest_of(folder)["rejected"] == {"empty": 1, "malformed": 1}
    assert [reject.id for reject in read_parquet(folder / "rejected.parquet", Reject)] == [
        "corpus.jsonl:4",
        "corpus-201",
    ]


def test_a_corpus_is_never_in_memory(tmp_path: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["word " * 4000 + str(k) for k in range(2000)])  # 40 MB
    (tmp_path / "spool").mkdir()
    corpus = open_corpus(source, TextConfig())
    tracemalloc.start()
    spool(corpus, TextConfig(), 3, tmp_path / "spool", range(3))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.5 * plain_text.SPOOLED_AT_ONCE < source.stat().st_size


def test_a_part_spools_its_own_shards_alone(tmp_path: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    (tmp_path / "spool").mkdir()
    spool(open_corpus(source, TextConfig()), TextConfig(), 4, tmp_path / "spool", (1, 3))
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["spool-00001.jsonl", "spool-00003.jsonl"]


def test_a_data_set_on_the_hub_is_streamed(tmp_path: Path, small_tokenizer: Path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set/train.jsonl", TEXTS)
    open_hub = tables.open_hub
    monkeypatch.setattr(plain_text, "open_hub", lambda name: open_hub(str(tmp_path / "set")))
    monkeypatch.chdir(tmp_path)
    run(PackConfig(Path("someone/corpus"), tmp_path / "packed", small_tokenizer, ROW, workers=1))
    assert len(documents(tmp_path / "packed")) == 30
    assert manifest_of(tmp_path / "packed")["sources"] == {"someone/corpus": 30}


# ---------------------------------------------------------------- what is refused


def test_sources_without_text_are_refused_in_one_line(tmp_path: Path, small_tokenizer: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "image.png").write_bytes(b"png")
    write_jsonl(tmp_path / "blank.jsonl", [""])
    (tmp_path / "empty.jsonl").touch()
    cases = {
        "absent": "no such folder",
        "folder": "it is not finished, run its stage again",
        "image.png": "unknown file suffix '.png'",
        "blank.jsonl": "blank contains no text",
        "empty.jsonl": "is empty: fetch it again",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            packed(tmp_path / name, small_tokenizer)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("*-packed-*"))


def test_more_shards_than_documents_are_refused(tmp_path: Path, small_tokenizer: Path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:2])
    for shards, message in ((3, "from 1 to the number of documents, 2"), (0, "at least 1")):
        with pytest.raises(UserError, match=f"--shards {shards}: must be {message}"):
            packed(source, small_tokenizer, shards=shards)
    with pytest.raises(UserError, match="--max-documents -1: must be 0 or above"):
        packed(source, small_tokenizer, max_documents=-1)


def test_restricted_records_are_no_plain_text(tmp_path: Path, small_tokenizer: Path):
    source = write_table(tmp_path / "notes.parquet", TEXTS, restricted=[False] * 29 + [True])
    with pytest.raises(UserError, match="a restricted record is no plain text"):
        packed(source, small_tokenizer)
    folder = write_records(tmp_path / "notes", [note("n", "fever")])
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="it is not finished, run its stage again"):
        packed(folder, small_tokenizer)
