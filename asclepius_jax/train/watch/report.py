"""A self-contained report.html in the run folder.

It is generated only from files of the folder, so that the page of an old run can be regenerated: metrics.jsonl,
summary.json, config.json, data_manifest.json and events.jsonl. Sections whose file is missing or empty are left out.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

from asclepius_jax.train.watch.curves import coming_rates, losses_by_name, pairs_figures
from asclepius_jax.train.watch.metrics import read_metrics
from data_prep.contract.reports import charts
from data_prep.contract.reports.pages import facts, figure, page

REPORT = "report.html"
SOURCES_SHOWN = 12  # number of most frequent sources shown; the others are collapsed


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of the files of a run folder; empty for missing files."""

    name: str
    steps: list[dict[str, Any]]  # rows of training steps, by step
    evals: list[dict[str, Any]]  # rows of evaluations, by step
    summary: dict[str, Any]
    config: dict[str, Any]
    manifest: dict[str, Any]
    events: list[dict[str, Any]]  # skipped updates and loss spikes, by step

    @property
    def steady(self) -> list[dict[str, Any]]:
        """The steps without the first, which includes compilation, unless it is the only one."""
        return self.steps[1:] or self.steps


def write_report(run_dir: Path) -> None:
    """Write run_dir/report.html, a page without external resources."""
    run = read_run(run_dir)
    sections = (head, training, time_spent, data, origins, prompt, settings)
    body = "\n".join(part for part in (section(run) for section in sections) if part)
    text = page(f"{run.name} – training report", body)
    partial = run_dir / f".{REPORT}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(run_dir / REPORT)


def read_run(run_dir: Path) -> Run:
    rows = read_metrics(run_dir / "metrics.jsonl")
    return Run(
        name=run_dir.resolve().name,
        steps=[row for row in rows if "loss" in row],
        evals=[row for row in rows if "eval_loss" in row],
        summary=read_json(run_dir / "summary.json"),
        config=read_json(run_dir / "config.json"),
        manifest=read_json(run_dir / "data_manifest.json"),
        events=read_metrics(run_dir / "events.jsonl"),
    )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def head(run: Run) -> str:
    over = ["training report"]
    if run.manifest:
        over.append(f"{run.manifest['phase']} phase")
    if run.config:
        over.append(f"model {run.config['model']}")
    warning = "".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(run))
    return (
        f'<header><p class="over">{escape(" · ".join(over))}</p><h1>{escape(run.name)}</h1>\n{status(run)}{warning}\n'
        f'<dl class="tiles">{"".join(tiles(run))}</dl></header>'
    )


def warnings(run: Run) -> Iterable[str]:
    skipped = [row["step"] for row in run.steps if row.get("skipped") or not math.isfinite(row["loss"])]
    lost = [row["step"] for row in run.evals if not math.isfinite(row["eval_loss"])]
    spikes = [event["step"] for event in run.events if event["event"] == "spike"]
    if skipped:
        yield (
            f"In {len(skipped):,} steps, the first being {skipped[0]:,}, loss, gradient or update was not a finite "
            "number: those updates were skipped. Their rows are listed in events.jsonl."
        )
    if lost:
        yield f"The held-out loss was not a finite number in {len(lost):,} evaluations, the first at step {lost[0]:,}."
    if spikes:
        shown = ", ".join(f"{step:,}" for step in spikes[:8]) + (" …" if spikes[8:] else "")
        yield f"The loss jumped at step{'s' * (len(spikes) > 1)} {shown}. Their rows are listed in events.jsonl."


def status(run: Run) -> str:
    if not run.summary:
        return '<p class="status bad">Not finished: there is no summary.json</p>'
    step, total = run.summary["step"], run.summary["total_steps"]
    if step >= total:
        return f'<p class="status good">✓ Finished: all {total:,} steps</p>'
    return f'<p class="status bad">■ Stopped at step {step:,} of {total:,}; run the same command to resume</p>'


def tiles(run: Run) -> Iterable[str]:
    if run.steps:
        yield tile("Final loss", f"{run.steps[-1]['loss']:.4f}", f"{run.steps[0]['loss']:.4f} at the first step")
    if run.evals:
        last = run.evals[-1]
        note = f"loss {last['eval_loss']:.4f} at step {last['step']:,}"
        name, value = "Held-out perplexity", short(last.get("eval_perplexity", math.nan))
        if "eval_accuracy" in last:
            name, value = "Held-out pairs ordered right", f"{last['eval_accuracy']:.1%}"
        yield tile(name, value, note)
    elif run.steps:
        yield tile("Held-out perplexity", "–", "no evaluation in this run")
    if run.steps:
        speed = statistics.median(row["tokens_per_second"] for row in run.steady)
        device = statistics.median(row["tokens_per_second_per_device"] for row in run.steady)
        note = f"{device:,.0f} per device" + (", median" if len(run.steps) > 1 else ", including compilation")
        yield tile("Tokens per second", f"{speed:,.0f}", note)
        yield mfu_tile(run)
    if run.summary:
        starts = run.summary.get("starts", 1)
        note = f"goodput {run.summary.get('goodput', 0):.1%}, {starts:,} start{'s' * (starts > 1)}"
        yield tile("Time", charts.duration(sum(hours(run).values())), note)
    if run.steps:
        trained = sum(row["loss_tokens"] for row in run.steps)
        yield tile("Tokens trained on", compact(trained), f"{trained:,.0f} with loss")


def mfu_tile(run: Run) -> str:
    known = [row for row in run.steady if row["mfu"] is not None]
    if not known:
        return tile("MFU", "–", "peak of this device unknown")
    full, causal = (statistics.median(row[name] for row in known) for name in ("mfu", "mfu_causal"))
    return tile("MFU", f"{full:.1%}", f"{causal:.1%} if causal scores count half")


def tile(name: str, value: str, note: str) -> str:
    return f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>'


def training(run: Run) -> str:
    if not run.steps:
        return "<h2>Training</h2><p>No steps: metrics.jsonl contains none.</p>"
    steps = column(run.steps, "step")
    norms, rates = column(run.steps, "grad_norm"), column(run.steps, "learning_rate")
    evals = column(run.evals, "step"), column(run.evals, "eval_loss")
    clip = run.config["optimizer"]["clip_norm"] if run.config else None
    figures = [
        figure("Loss", charts.loss_chart(steps, column(run.steps, "loss"), *evals), loss_caption(run)),
        figure("Gradient norm", charts.gradient_chart(steps, norms, clip), gradient_caption(norms, clip)),
        figure(
            "Learning rate",
            charts.learning_rate_chart(steps, rates, *coming_rates(run.config, run.steps[-1]["step"], run.summary)),
            f"Maximum {max(rates):.3g}, last step {rates[-1]:.3g}. Look for: the configured warmup and decay, without "
            "a break where the run was resumed.",
        ),
        *losses_by_name(run.steps, run.evals),
        *pairs_figures(run.steps, run.evals),
    ]
    if len(run.steps) > 1:
        speeds = column(run.steady, "tokens_per_second")
        mfu = [row["mfu"] for row in run.steady if row["mfu"] is not None]
        chart = charts.throughput_chart(column(run.steady, "step"), speeds, mfu)
        figures.append(figure("Throughput", chart, throughput_caption(speeds)))
    return f'<h2>Training</h2><div class="grid">{"".join(figures)}</div>'


def loss_caption(run: Run) -> str:
    text = "Look for: a decrease that levels off, without lasting jumps."
    if len(run.steps) >= charts.SMOOTH_FROM:
        text += f" The dark line is the mean over {(len(run.steps) // 25) | 1} neighbouring steps."
    if not run.evals:
        return text + " There is no held-out data to distinguish learning from memorization."
    finite = [row for row in run.evals if math.isfinite(row["eval_loss"])]
    if not finite:
        return text
    best, last = min(finite, key=lambda row: row["eval_loss"]), finite[-1]["eval_loss"]
    lowest = f" The lowest held-out loss is {best['eval_loss']:.4f}, at step {best['step']:,}."
    if last > 1.01 * best["eval_loss"]:
        return text + lowest + f" It has since risen to {last:.4f}, a sign of memorization."
    return text + lowest + " If it rises while training loss falls, the model memorizes its rows."


def gradient_caption(norms: list[float], clip_norm: float | None) -> str:
    text = "Before clipping. Look for: an even band. Growing spikes are an early sign of divergence."
    if clip_norm is None:
        return text
    clipped = sum(norm > clip_norm for norm in norms)
    return text + f" {clipped:,} of {len(norms):,} steps were above {clip_norm:g} and were clipped."


def throughput_caption(speeds: list[float]) -> str:
    return (
        "Without the first step, which includes compilation. A resumed run compiles again, which shows as a dip of one "
        f"step. Slowest {min(speeds):,.0f}, fastest {max(speeds):,.0f} tokens per second, including padding. Look for: "
        "a level line. A slope or a comb means that input or the machine is a bottleneck."
    )


def time_spent(run: Run) -> str:
    if not run.summary or not sum(hours(run).values()):
        return ""
    starts = run.summary.get("starts", 1)
    over = f"{starts:,} starts of this run, including the time between them" if starts > 1 else "one start of this run"
    caption = (
        f"{charts.duration(sum(hours(run).values()))} over {over}; {run.summary.get('goodput', 0):.1%} went into steps "
        "that were not undone (goodput). Look for: nearly all time in steps. Much input means that rows are read too "
        "slowly, much lost work that checkpoints are too rare. Evaluation and save include waiting for pending steps."
    )
    chart = figure("", charts.time_chart(hours(run)), caption)
    return f'<h2>Where the time went</h2><div class="grid">{chart}<div>{pace(run)}</div></div>'


def hours(run: Run) -> dict[str, float]:
    """Seconds of each kind over all starts of the run, without those below 0.1% of the total."""
    seconds = run.summary.get("seconds_of_all_starts", run.summary["seconds"])
    return {name: value for name, value in seconds.items() if value > 1e-3 * sum(seconds.values())}


def pace(run: Run) -> str:
    rows = []
    if len(run.steps) > 1:
        seconds = sorted(column(run.steady, "seconds"))
        slow = seconds[math.ceil(0.95 * len(seconds)) - 1]
        rows += [
            ("Seconds per step, median", f"{statistics.median(seconds):.3f}"),
            ("Seconds per step, 95th percentile", f"{slow:.3f}"),
        ]
    if run.config:
        batch, length = run.config["batch"], run.config["data"]["row_length"]
        rows += [
            ("Rows per step", f"{batch['global_batch']:,}"),
            ("Microbatches per step", f"{batch['microbatches']:,}"),
            ("Token slots per step", f"{batch['global_batch'] * length:,}"),
            (
                "Mesh",
                " × ".join(f"{name} {size if size > 0 else '(rest)'}" for name, size in run.config["mesh"].items()),
            ),
        ]
        if run.manifest and run.manifest["rows"]:
            rows += passes(run, run.summary["step"] * batch["global_batch"])
    return facts(rows)


def passes(run: Run, seen: int) -> Iterable[tuple[str, str]]:
    """The epochs after this number of rows, of each source of a mixture."""
    if not (mixture := run.manifest.get("mixture")):
        yield "Passes over the data so far", f"{seen / run.manifest['rows']:.2f}"
    for name, source in (mixture or {}).items():
        share = Fraction(source["weight"])
        epochs = float(share * seen) / source["rows"]
        yield f"Passes over {name} so far", f"{epochs:.2f}, with {float(share):.3g} of all rows"


def data(run: Run) -> str:
    if not run.manifest:
        return ""
    manifest = run.manifest
    slots = manifest["rows"] * manifest["row_length"]
    parts = {
        "tokens with loss": manifest["loss_tokens"],
        "tokens read only": manifest["tokens"] - manifest["loss_tokens"],
        "padding": max(slots - manifest["tokens"], 0),
    }
    caption = (
        "The model learns to write the tokens with loss. A tuning row also contains notes and instructions, which it "
        "only reads. Look for: little padding, since padding costs as much computation as tokens."
    )
    rows = [
        ("Rows", f"{manifest['rows']:,} of {manifest['row_length']:,} tokens"),
        ("Documents", f"{manifest['documents']:,}"),
        ("Tokens", f"{manifest['tokens']:,}"),
        ("Tokens with loss", f"{manifest['loss_tokens']:,}"),
        ("Packing efficiency", f"{manifest['packing_efficiency']:.2%}"),
        ("Notes shortened to fit a row", f"{manifest['truncated']:,}"),
        ("Follow-up turns left out", f"{manifest.get('turns_left_out', 0):,}"),
        ("Rejected", "; ".join(f"{name}: {n:,}" for name, n in manifest["rejected"].items()) or "none"),
        ("Vocabulary", f"{manifest['vocab_size']:,}"),
        ("Tokenizer hash", manifest["tokenizer_hash"][:12]),
        *((f"Packed from {path}", digest[:12]) for path, digest in manifest["inputs"].items()),
    ]
    chart = figure("", charts.token_chart(parts), caption) if slots else ""
    return f'<h2>Data and packing</h2><div class="grid">{chart}<div>{facts(rows)}</div></div>'


def origins(run: Run) -> str:
    if not run.manifest:
        return ""
    return (
        '<h2>Sources and licences</h2><p>Records of the packed folder by licence and by source.</p><div class="grid">'
        f"<div><h3>Licences</h3>{counts(run.manifest['licences'])}</div>"
        f"<div><h3>Sources</h3>{counts(run.manifest['sources'])}</div></div>"
    )


def counts(numbers: dict[str, int]) -> str:
    """A table sorted by frequency. The end of a long table is collapsed."""
    if not numbers:
        return "<p>Not recorded.</p>"
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    shown, folded = ordered[:SOURCES_SHOWN], ordered[SOURCES_SHOWN:]
    text = facts((name, f"{number:,}") for name, number in shown)
    if folded:
        total = sum(number for _, number in folded)
        rest = facts((name, f"{number:,}") for name, number in folded)
        text += f"<details><summary>{len(folded):,} more, {total:,} records</summary>{rest}</details>"
    return text


def prompt(run: Run) -> str:
    if not run.manifest or not run.manifest["prompt_template"]:
        return ""
    return (
        "<h2>Prompt template</h2><p>It is stored with the data, the checkpoint and the exported model. The fields in "
        "braces are filled with a note and an instruction. A pretraining row contains only a note.</p>"
        f"<pre>{escape(run.manifest['prompt_template'])}</pre>"
    )


def settings(run: Run) -> str:
    if not run.config:
        return ""
    rows = [
        (f"{section}.{name}", json.dumps(value))
        for section, fields in run.config.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    ]
    top = [(name, json.dumps(value)) for name, value in run.config.items() if not isinstance(value, dict)]
    return (
        '<h2>Configuration</h2><details class="settings"><summary>All settings, including defaults</summary>'
        f"{facts(top + rows)}</details>"
    )


def column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows]


def compact(number: float) -> str:
    for size, unit in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"
