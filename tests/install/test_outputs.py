"""Each row of the table in docs/outputs.md: a rerun, a file of the user's, a signal and a full disk.

A signal and a full disk strike where a command makes its output durable, which every writer does before it renames.
"""

import csv
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax import cli
from asclepius_jax.evaluate.audits import citations, forgetting, privacy, realism
from asclepius_jax.evaluate.clinicians import paper, study
from asclepius_jax.evaluate.questions import registry
from asclepius_jax.evaluate.records import Question, read_records
from asclepius_jax.evaluate.report.tables import keep
from asclepius_jax.pipelines import demo
from data_prep.contract.folders import output_folders
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import question, write, write_answers, write_judgements
from tests.helpers.made_inputs import example, make_tokenizer, note, random_folder, write_records
from tests.helpers.places import ROOT

TABLE = (ROOT / "docs/outputs.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].replace("`", ""): cells[1:]
    for line in TABLE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
NOTE = "A 64-year-old woman was admitted with fever for 3 days. Aspirin 100 mg was given twice daily. " * 3
QUOTED = '"Aspirin 100 mg was given twice daily."'


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small inputs of every command."""
    folder = tmp_path_factory.mktemp("inputs")
    notes = [note(f"n{k}", f"{NOTE} Bed {k}.") for k in range(24)]
    write_records(folder / "notes", notes)
    examples = [example(f"e{k}", f"{NOTE} Bed {k}.", "Which drug was given?", "Aspirin 100 mg.") for k in range(24)]
    write_records(folder / "instructions", examples)
    rows = [{"id": f"r{k}", "text": f"{NOTE} Bed {k}.", "types": "discharge summary"} for k in range(24)]
    (folder / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    published = {"patient_id": "1", "note": NOTE, "question": "Which?", "answer": "Aspirin.", "task": "Summarization"}
    (folder / "published.jsonl").write_text(json.dumps(published) + "\n")
    uses = f"abbreviation,sense,text,others\nCP,chest pain,{NOTE} CP,cerebral palsy\n"
    (folder / "senses.csv").write_text(uses)
    made = [question(k) for k in range(8)]
    write(folder / "questions", "questions", Question, made)
    write_answers(folder / "answers", "m", {q.id: q.reference for q in made})
    write_judgements(folder / "judged", "j", {"m": [4] * 8})
    make_tokenizer(folder / "hf")
    random_folder(folder / "hf")
    registry.run(registry.SetConfig("abbreviations", folder / "senses.csv", folder / "known"))
    known = read_records(folder / "known", "questions", Question)
    write_answers(folder / "known_answers", "m", {q.id: q.reference for q in known})
    make_study(folder)
    return folder


def make_study(folder: Path) -> None:
    """A study in which every answer is scored."""
    settings = {"questions": folder / "questions", "answers": (folder / "answers",), "raters": ("A",)}
    study.run(study.StudyConfig(**settings, out=folder / "study"))
    paper.run(paper.PaperConfig(folder / "study", folder / "forms.csv"))
    with (folder / "forms.csv").open(newline="") as file:
        heading, *rows = csv.reader(file)
    verdict = {"incorrect": "no", "omitted": "nothing", "treatment": "answered"}
    filled = [[verdict.get(name, cell) for name, cell in zip(heading, row, strict=True)] for row in rows]
    with (folder / "forms.csv").open("w", newline="") as file:
        csv.writer(file).writerows([heading, *filled])
    paper.run(paper.PaperConfig(folder / "study", back_in=folder / "forms.csv"))


class Command:
    """Runs one command of the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inputs: Path):
        self.monkeypatch, self.capsys, self.inputs = monkeypatch, capsys, inputs

    def __call__(self, line: str, out: Path) -> tuple[Any, str]:
        """(exit code, standard error) of `line`, in which IN and OUT stand for the inputs and the output."""
        words = [word.replace("IN/", f"{self.inputs}/").replace("OUT", str(out)) for word in line.split()]
        claims = json.dumps({"claims": [{"claim": "Aspirin was given.", "note": "stated", "quote": "Aspirin"}]})
        with self.monkeypatch.context() as patch, FakeEndpoint(lambda *_: completion(claims)) as endpoint:
            words = [word.replace("URL", endpoint.url) for word in words]
            patch.setattr(sys, "argv", ["asclepius", *words])
            for variable in ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS"):
                patch.setenv(variable, os.environ.get(variable, ""))
            try:
                cli.main()
                code: Any = 0
            except SystemExit as left:
                code = left.code
        return code, self.capsys.readouterr().err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inputs: Path) -> Command:
    return Command(monkeypatch, capsys, inputs)


# Command as the table names it -> a line that writes OUT, and the place in OUT where files of the user's matter.
LINES = {
    "notes": ("notes --source IN/reports.jsonl --out OUT", ""),
    "instructions": ("instructions --source IN/notes --out OUT", ""),
    "real-notes": ("real-notes --source IN/reports.jsonl --out OUT", ""),
    "adopt": ("adopt --source IN/published.jsonl --out OUT", ""),
    "split": ("split --source IN/instructions --out OUT --similarity 1 --held-out 0.4", "train"),
    "release": ("release --source IN/instructions --out OUT", ""),
    "pack": ("pack --source IN/notes --out OUT --tokenizer IN/hf --row-length 256", ""),
    "compare": ("compare --source IN/notes --real IN/reports.jsonl --out OUT.html", None),
    "import": ("import --hf IN/hf --out OUT", ""),
    "merge": ("merge --models IN/hf=0.6 IN/hf=0.4 --out OUT", ""),
    "evaluate questions": ("evaluate questions --source IN/instructions --out OUT", ""),
    "evaluate benchmark": ("evaluate benchmark --set abbreviations --source IN/senses.csv --out OUT", ""),
    "evaluate answers": ("evaluate answers --questions IN/questions --out OUT --models r=reference:", "r"),
    "evaluate plant": ("evaluate plant --source IN/instructions --out OUT --per-class 4", "questions"),
    "evaluate judge": (
        "evaluate judge --questions IN/questions --answers IN/answers --out OUT --model rules",
        "",
    ),
    "evaluate score --json": (
        "evaluate score --questions IN/known --answers IN/known_answers --json OUT.json",
        None,
    ),
    "evaluate claims": (
        "evaluate claims --questions IN/questions --answers IN/answers --out OUT --model m --base-url URL",
        "",
    ),
    "evaluate ratings": ("evaluate ratings --study IN/study --key IN/study/key.json --out OUT", ""),
    "evaluate study": ("evaluate study --questions IN/questions --answers IN/answers --out OUT --raters A", ""),
    "evaluate canaries": ("evaluate canaries --source IN/notes --out OUT --each 1", ""),
    "evaluate report": ("evaluate report --questions IN/questions --judged IN/judged --out OUT", None),
}


# Without a change of its settings, this command has nothing to write again.
CHANGED = {"evaluate answers": " --decoding.max-new-tokens 9"}


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file but the ledger, which keeps what an endpoint has answered."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".ledger." not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_table_names_every_command():
    named = " ".join(ROWS)
    known = [name for name in cli.COMMANDS if name not in ("generate", "serve", "evaluate")]
    assert not [name for name in known if not re.search(rf"(?<![\w-]){name}(?![\w-])", named)]
    assert not [name for name in cli.PARTS if name != "serve" and name not in named]
    assert not [name for name in LINES if name not in ROWS]


@pytest.mark.parametrize("name", LINES)
def test_a_command_does_what_its_row_says(name: str, command: Command, tmp_path: Path, monkeypatch):
    line, inside = LINES[name]
    rerun, mine, signalled, full = ROWS[name]
    out = tmp_path / "out"
    starting_anew = "no OUT" in signalled
    if not starting_anew:
        assert command(line, out)[0] == 0
    before = tree(tmp_path)
    line += CHANGED.get(name, "")
    for failure, code in ((KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2)):
        with monkeypatch.context() as patch:
            patch.setattr(output_folders.os, "fsync", raising(failure))
            told = command(line, out)
        assert told[0] == code, told
        assert "Traceback" not in told[1]
        assert tree(tmp_path) == before, signalled if code == 130 else full
        assert not list(tmp_path.glob(".*")), "nothing of the work in progress is left"
    if starting_anew:
        assert command(line, out)[0] == 0
        before = tree(tmp_path)
    code, told = command(line, out)
    assert code == (2 if rerun.startswith("refused") else 0), told
    if code:
        assert tree(tmp_path) == before
    assert tree(tmp_path).keys() == before.keys()
    place = out / (inside or "") if out.exists() else tmp_path
    (place / "mine.txt").write_text("weeks of work")
    code, told = command(line.replace("9", "8") if name in CHANGED else line, out)
    assert (place / "mine.txt").read_text() == "weeks of work"
    assert code == (2 if "refused" in mine or rerun.startswith("refused") else 0), told
    if code and not rerun.startswith("refused"):
        assert "mine.txt" in told


def raising(failure: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise failure

    return fail


def test_an_export_does_what_its_row_says(command: Command, tmp_path: Path, monkeypatch):
    assert command("import --hf IN/hf --out OUT", tmp_path / "run")[0] == 0
    line = f"export --checkpoint {tmp_path / 'run'} --out OUT"
    out = tmp_path / "models/mine"
    assert command(line, out)[0] == 0
    before = tree(tmp_path)
    for failure, code in ((KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2)):
        with monkeypatch.context() as patch:
            patch.setattr(output_folders.os, "fsync", raising(failure))
            assert command(line, out)[0] == code
        assert tree(tmp_path) == before
    assert command(line, out)[0] == 0
    (out / "README.md").write_text("Our model card.")
    code, told = command(line, out)
    assert (code, "README.md, edited since" in told) == (2, True)
    assert (out / "README.md").read_text() == "Our model card."


def test_single_files_are_replaced_whole(command: Command, tmp_path: Path, monkeypatch):
    """The rows of `evaluate paper --out`, and of realism, privacy and forgetting, which save their table alike."""
    table = {"title": "t", "about": "a", "columns": ["c"], "table": [["1"]]}
    (tmp_path / "old.json").write_text("older table")
    with monkeypatch.context() as patch:
        patch.setattr(output_folders.os, "fsync", raising(OSError(errno.ENOSPC, "the disk is full")))
        with pytest.raises(OSError, match="full"):
            keep(table, tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "older table"
    for part in (realism, privacy, forgetting, citations):
        assert part.keep is keep
    study = f"evaluate study --questions IN/questions --answers IN/answers --out {tmp_path / 'study'} --raters A"
    assert command(study, tmp_path)[0] == 0
    line = f"evaluate paper --study {tmp_path / 'study'} --out OUT"
    out = tmp_path / "forms.html"
    assert command(line, out)[0] == 0
    out.write_text("older forms")
    for failure, code in ((KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2)):
        with monkeypatch.context() as patch:
            patch.setattr(output_folders.os, "fsync", raising(failure))
            assert command(line, out)[0] == code
        assert out.read_text() == "older forms"
    assert command(line, out)[0] == 0
    assert out.read_text() != "older forms"


def test_what_may_have_been_edited_is_not_written_again(command: Command, tmp_path: Path, monkeypatch):
    """The rows of `init` and `plan --search`."""
    monkeypatch.chdir(tmp_path)
    assert command("init OUT", tmp_path / "mine")[0] == 0
    before = tree(tmp_path)
    assert command("init OUT", tmp_path / "mine")[0] == 2
    config = tmp_path / "mine/configs/demo.py"
    code, told = command("plan demo --topology h100-8 --search --rows 100 --out OUT", config)
    assert (code, "demo.py exists: choose another --out, or remove it" in told) == (2, True)
    assert tree(tmp_path) == before


def test_a_demo_replaces_only_an_earlier_demo(command: Command, tmp_path: Path):
    """The rows of `demo` and of `evaluate demo`, whose files the later demo knows too."""
    (tmp_path / "demo").mkdir()
    with output_folders.recording_files(tmp_path / "demo"):
        (tmp_path / "demo/notes").mkdir()
        (tmp_path / "demo/notes/part.parquet").write_text("of a demo that was interrupted")
    mine = tmp_path / "demo/notes/mine.txt"
    mine.write_text("weeks of work")
    code, told = command("demo --out OUT", tmp_path / "demo")
    assert (code, "did not write (notes/mine.txt)" in told) == (2, True)
    assert mine.read_text() == "weeks of work"
    mine.unlink()
    demo.clear(tmp_path / "demo")
    assert not list((tmp_path / "demo").iterdir())
