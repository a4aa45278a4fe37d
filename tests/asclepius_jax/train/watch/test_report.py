"""report.html says what the run folder says, and needs nothing else."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax.config import DataConfig, TrainConfig
from asclepius_jax.config.schema import with_learning_rate
from asclepius_jax.train.watch.report import write_report
from data_prep.contract.reports.charts import moving_mean

MARKUP = '<script>alert("1 & 2")</script>'
SVG = "{http://www.w3.org/2000/svg}"
MANIFEST = {
    "rejected": {"longer_than_row": 7},
    "inputs": {f"/data/{MARKUP}": "c0ffee" * 11},
    "phase": "instruct",
    "row_length": 100,
    "rows": 20,
    "tokens": 1900,
    "loss_tokens": 380,
    "documents": 53,
    "truncated": 4,
    "packing_efficiency": 0.95,
    "vocab_size": 32000,
    "tokenizer_hash": "f5960015e10ae442" * 4,
    "prompt_template": f"{MARKUP}\n{{note}}\n{{instruction}}\n",
    "licences": {"CC BY 4.0": 31, MARKUP: 22},
    "sources": {f"Journal {k}": 100 + k for k in range(15)} | {MARKUP: 1},
}


def step_row(step: int) -> dict[str, Any]:
    seconds = 40.0 if step == 1 else 2.0  # the first one compiles
    return {
        "step": step,
        "loss": 3.0 - 0.1 * step + 0.03 * (step % 3),  # no three on a line: a chart leaves those in between out
        "grad_norm": 1.5 if step % 4 == 0 else 0.5,
        "learning_rate": 2e-5,
        "loss_tokens": 1234.0,
        "seconds": seconds,
        "tokens_per_second": 8000 / seconds,
        "tokens_per_second_per_device": 1000 / seconds,
        "mfu": 0.4321 if step > 1 else 0.01,
        "mfu_causal": 0.4099 if step > 1 else 0.01,
    }


def eval_row(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "eval_loss": loss, "eval_perplexity": math.exp(loss)}


ROWS = [step_row(k) for k in range(1, 13)]
EVALS = [eval_row(4, 2.9), eval_row(8, 2.5), eval_row(12, 2.7)]
SUMMARY = {"step": 12, "total_steps": 12, "seconds": {"start-up": 10.0, "compile": 40.0, "step": 150.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / 'a<i>run"')


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one page says; a page takes half a second to draw."""
    return Page(report(fill(tmp_path_factory.mktemp("text") / "run"))).text


def fill(run: Path) -> Path:
    run.mkdir()
    # An evaluation's row may stand before the rows of earlier steps.
    write_rows(run, [*ROWS[:2], *EVALS, *ROWS[2:]])
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    config = with_learning_rate(TrainConfig(run_dir=str(run), model=MARKUP, data=DataConfig(row_length=100)))
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (run / "data_manifest.json").write_text(json.dumps(MANIFEST))
    return run


def write_rows(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def report(run: Path) -> str:
    write_report(run)
    return (run / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and visible text; fails on a tag that is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def charts(page: str) -> dict[str, ElementTree.Element]:
    """Each chart by its description; parsing fails where it is not well-formed."""
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return {svg.attrib["aria-label"]: svg for svg in found}


def line(svg: ElementTree.Element, gid: str) -> str:
    path = svg.find(f".//*[@id='loss-{gid}']/{SVG}path")
    assert path is not None
    return path.attrib["d"]


def test_the_page_loads_nothing_and_runs_nothing(folder):
    page = report(folder)
    parsed = Page(page)
    loading = [
        (tag, name, value)
        for tag, name, value in parsed.attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not value.startswith(("#", "data:"))
    ]
    assert not loading
    assert not {"script", "iframe", "object", "embed", "img", "foreignobject"} & set(parsed.tags)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    policy = [value for tag, name, value in parsed.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.parametrize(
    "fact",
    [
        "✓ Finished: all 12 steps",
        "instruct phase",
        "Final loss 1.8000 2.9300 at the first step",
        "Held-out perplexity 14.9 loss 2.7000 at step 12",
        "lowest held-out loss is 2.5000, at step 8. It has since risen to 2.7000",
        "Tokens per second 4,000 500 per device, median",  # with the first step it would be lower
        "MFU 43.2% 41.0% if causal scores count half",
        "Tokens trained on 14.8 k 14,808",
        "3 of 12 steps were above 1 and were clipped",
        "start-up",
        "150.0 s · 75.0%",
        "Seconds per step, median 2.000",
        "tokens with loss: 380 (19.0%)",
        "tokens read only: 1,520 (76.0%)",
        "padding: 100 (5.0%)",
        "Rows 20 of 100 tokens",
        "Documents 53",
        "Packing efficiency 95.00%",
        "longer_than_row: 7",
        "Vocabulary 32,000",
        "Tokenizer hash f5960015e10a ",
        "CC BY 4.0 31",
        "Journal 14 114",
        "4 more, 304 records",  # Journal 2, 1, 0 and the markup
        "optimizer.learning_rate 2e-05",
        "Passes over the data so far 76.80",  # 12 steps of 128 rows over 20
    ],
)
def test_what_the_files_say_stands_on_the_page(text, fact):
    assert fact in text


def test_markup_from_files_is_text(folder):
    page = report(folder)
    text = Page(page).text
    assert "<script" not in page
    assert "<i>" not in page
    assert 'a<i>run"' in text
    # Model, prompt template, licence, source, input folder and the configuration's model.
    assert text.count('<script>alert("1 & 2")') + text.count(json.dumps(MARKUP)) == 6


def test_charts_hold_every_step_and_every_evaluation(folder):
    found = charts(report(folder))
    assert len(found) == 6
    loss = found["Training and held-out loss over steps"]
    assert len(re.findall(r"[ML] ", line(loss, "raw"))) == 12
    assert len(re.findall(r"[ML] ", line(loss, "held-out"))) == 3
    markers = loss.findall(f".//*[@id='loss-held-out']//{SVG}use")
    assert len(markers) == 3
    heights = [float(marker.attrib["y"]) for marker in markers]
    assert heights[1] > heights[2] > heights[0]  # y grows downwards: 2.5, 2.7, 2.9


def test_throughput_leaves_out_the_step_that_compiles(folder):
    page = report(folder)
    throughput = charts(page)["Tokens per second over steps"]
    path = throughput.find(f".//*[@id='throughput-raw']/{SVG}path")
    assert path is not None
    heights = {number for _, number in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"])}
    assert len(heights) == 1  # 4,000 tokens per second at all of them; the first step has 200
    assert "Without the first step, which includes compilation" in page


def test_ids_are_unique_and_every_reference_has_its_target(folder):
    page = report(folder)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)} <= set(ids)


def test_the_same_files_give_the_same_page(folder):
    assert report(folder) == report(folder)
    assert sorted(path.name for path in folder.glob("*report*")) == ["report.html"]
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("missing", ["metrics.jsonl", "summary.json", "config.json", "data_manifest.json"])
def test_a_missing_file_costs_its_own_part_alone(folder, missing):
    (folder / missing).unlink()
    text = Page(report(folder)).text
    heads = {
        "metrics.jsonl": "Final loss",
        "summary.json": "Where the time went",
        "config.json": "Configuration",
        "data_manifest.json": "Data and packing",
    }
    for name, words in heads.items():
        assert (words in text) == (name != missing)


def test_an_empty_folder_has_a_page(tmp_path):
    assert "No steps: metrics.jsonl contains none." in Page(report(tmp_path)).text


def test_a_run_that_was_stopped_says_where(folder):
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "step": 5}))
    assert "Stopped at step 5 of 12" in Page(report(folder)).text


def test_one_step_without_evaluation(folder):
    write_rows(folder, [{**ROWS[0], "learning_rate": 0.0, "mfu": None, "mfu_causal": None}])
    text = Page(report(folder)).text
    assert "200 25 per device, including compilation" in text
    assert "MFU – peak of this device unknown" in text
    assert "no evaluation in this run" in text
    assert "Tokens per second over steps" not in charts(report(folder))


def test_a_loss_that_jumped_is_named(folder):
    events = [{"step": step, "event": "spike", "loss": 9.0, "grad_norm": 3.0, "rows": [1, 2]} for step in (4, 7)]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert "The loss jumped at steps 4, 7. Their rows are listed in events.jsonl." in report(folder)


def test_the_hours_are_those_of_all_starts(folder):
    hours = {"step": 3000.0, "lost work": 500.0, "restart": 100.0, "input": 0.1}
    summary = {**SUMMARY, "seconds_of_all_starts": hours, "starts": 3, "goodput": 0.8333}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = report(folder)
    assert "60.0 min over 3 starts of this run, including the time between them; 83.3% went" in page
    assert "83.3% went into steps that were not undone (goodput)" in page
    assert "goodput 83.3%, 3 starts" in page
    assert "lost work" in page
    assert ">input<" not in page  # too short to see


def test_a_loss_that_is_no_number_is_said_first(folder):
    broken = [{**row, "loss": math.nan, "grad_norm": math.inf} if row["step"] > 9 else row for row in ROWS]
    write_rows(folder, broken)
    page = report(folder)
    assert "In 3 steps, the first being 10, loss, gradient or update was not a finite number" in page
    assert len(re.findall(r"[ML] ", line(charts(page)["Training and held-out loss over steps"], "raw"))) == 9
    write_rows(folder, [{**row, "loss": math.nan, "grad_norm": math.nan} for row in ROWS])
    assert "In 12 steps, the first being 1, loss, gradient or update was not a finite number" in report(folder)


def test_a_held_out_loss_that_is_no_number_is_not_the_lowest(folder):
    evals = [eval_row(step, loss) for step, loss in ((2, math.nan), (4, 2.9), (6, math.nan), (8, 2.5), (12, math.nan))]
    write_rows(folder, [*ROWS, *evals])
    page = report(folder)
    assert "The held-out loss was not a finite number in 3 evaluations, the first at step 2." in page
    assert "The lowest held-out loss is 2.5000, at step 8." in page
    write_rows(folder, [*ROWS, eval_row(12, math.nan)])
    assert "lowest held-out loss" not in report(folder)


def test_many_steps_show_a_mean_beside_the_raw_line(folder):
    write_rows(folder, [{**step_row(k), "loss": 2 + math.sin(k)} for k in range(1, 201)])
    page = report(folder)
    assert "The dark line is the mean over 9 neighbouring steps." in Page(page).text
    labels = {text.text for text in charts(page)["Training and held-out loss over steps"].iter(f"{SVG}text")}
    assert {"each step", "mean"} <= labels


def test_the_moving_mean_stays_at_the_values_and_leaves_gaps():
    assert list(moving_mean([5.0] * 7, 3)) == [5.0] * 7
    assert list(moving_mean([1.0, 2.0, 6.0], 3)) == [1.5, 3.0, 4.0]
    nan = moving_mean([1.0, math.nan, 3.0], 3)
    assert math.isnan(nan[1])
    assert list(nan[[0, 2]]) == [1.0, 3.0]


def test_the_trainer_starts_without_matplotlib():
    code = "import sys, asclepius_jax.train.watch.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
