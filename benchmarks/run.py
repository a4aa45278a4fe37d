"""Measure on this machine, in one run and as ratios; writes RESULTS.md beside this file.

python benchmarks/run.py [step] [decoding] [start] [loop] [data] [teacher]
"""

import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before a part imports JAX
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import data  # noqa: E402
import decoding  # noqa: E402
import loop  # noqa: E402
import step  # noqa: E402
import teacher  # noqa: E402

ROUNDS, STEPS = 4, 2
PACKAGES = ("jax", "jaxlib", "torch", "transformers")


def main() -> None:
    parts = {
        "step": measure_step,
        "decoding": measure_decoding,
        "start": measure_start,
        "loop": measure_loop,
        "data": measure_data,
        "teacher": measure_teacher,
    }
    chosen = sys.argv[1:] or list(parts)
    sections = []
    for name in chosen:
        print(f"measuring {name}", flush=True)
        sections.append(parts[name]())
        print(sections[-1], flush=True)
    if chosen == list(parts):
        (HERE / "RESULTS.md").write_text("\n\n".join(["# Benchmarks", machine(), *sections]) + "\n")


def machine() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]  # torch is not in every environment
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in installed)
    return (
        f"`make bench`, {datetime.date.today()}: {len(names)} cores of {names[0]}, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {versions}. Times of a shared machine vary by a tenth or more; what is "
        "compared was measured in turns."
    )


def table(head: list[str], rows: list[list[Any]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


@contextmanager
def worker(kind: str, dtype: str, folder: Path) -> Iterator[Any]:
    command = [sys.executable, str(HERE / "step.py"), kind, dtype, str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: Any, steps: int) -> list[float]:
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def measure_step() -> str:
    """Workers take turns, so that what else the machine does falls on all of them."""
    kinds = [("ours", "float32"), ("torch", "float32"), ("ours", "bfloat16"), ("torch", "bfloat16")]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        step.save_model(Path(folder))
        workers = {kind: stack.enter_context(worker(*kind, Path(folder))) for kind in kinds}
        first = {kind: json.loads(workers[kind].stdout.readline()) for kind in kinds}
        rounds = [{kind: statistics.median(ask(workers[kind], STEPS)) for kind in kinds} for _ in range(ROUNDS)]
    apart = abs(first[kinds[0]]["loss"] / first[kinds[1]]["loss"] - 1)
    assert apart < 1e-4, f"the first losses differ by {apart}"

    def ratio(slow: tuple[str, str], fast: tuple[str, str]) -> float:
        return statistics.median(each[slow] / each[fast] for each in rounds)

    rows = [[*kind, f"{step.TOKENS / statistics.median(each[kind] for each in rounds):,.0f}"] for kind in kinds]
    ratios = [
        ["ours to PyTorch, float32", f"{ratio(kinds[1], kinds[0]):.2f}"],
        ["ours to PyTorch, bfloat16", f"{ratio(kinds[3], kinds[2]):.2f}"],
        ["ours, bfloat16 to float32", f"{ratio(kinds[0], kinds[2]):.2f}"],
        ["XLA's products in float32 to PyTorch's, GFLOP/s", data.product_rates()],
    ]
    return (
        "## A training step\n\nLLaMA of 58M parameters, 4 x 512 tokens, AdamW, one process each; eager PyTorch with "
        f"transformers on the same weights and rows; first losses {apart:.0e} apart.\n\n"
        f"{table(['', 'type', 'tokens/s'], rows)}\n\n{table(['ratio of tokens/s', ''], ratios)}"
    )


def measure_decoding() -> str:
    with tempfile.TemporaryDirectory() as folder:
        step.save_model(Path(folder))
        rows = list(decoding.measure(Path(folder)))
    told = "The same model answers prompts of 16 to 127 tokens with 4 to 256 new ones, half of them fewer than 32."
    return f"## Decoding\n\n{told}\n\n{table(['', ''], rows)}"


def measure_start() -> str:
    """From the start of the process to the first step's loss, with and without programs of an earlier start."""
    with tempfile.TemporaryDirectory() as folder:
        values = loop.made_config(Path(folder))
        seconds = []
        for name in ("cold", "warm"):
            started = time.monotonic()
            loop.start(values, Path(folder) / name, Path(folder) / "compiled")
            seconds.append(time.monotonic() - started)
    rows = [["nothing compiled", f"{seconds[0]:.1f}"], ["compiled by an earlier start", f"{seconds[1]:.1f}"]]
    told = "The same model, measured from the start of the process."
    return f"## Time to the first step\n\n{told}\n\n{table(['', 'seconds'], rows)}"


def measure_loop() -> str:
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = loop.overhead(Path(folder))
    rows = [["the loop", f"{whole * 1e3:.2f}"], ["the compiled step alone", f"{bare * 1e3:.2f}"]]
    rows.append(["overhead", f"{(whole - bare) * 1e3:.2f}"])
    return f"## Outside the compiled step\n\n{table(['a step, milliseconds', ''], rows)}"


def measure_data() -> str:
    return f"## Data\n\n{table(['', ''], data.measure())}"


def measure_teacher() -> str:
    told = "A bare loop of `openai.AsyncOpenAI` without a ledger beside ours, the endpoint in a process of its own."
    return f"## The teacher\n\n{told}\n\n{table(['', ''], list(teacher.measure(5000)))}"


if __name__ == "__main__":
    main()
