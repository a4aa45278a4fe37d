"""Time and memory of the Hugging Face bridge, against `cp` of the same bytes on the same disk; run by hand.

    python benchmarks/bridge.py --model llama2_7b --work /large/disk [--repeats 3] [--float32]

A random model is written piece by piece; nothing in it repeats. Every figure is of a whole process, from the start of
Python to its exit, with its largest resident size. `cp` and the bridge take turns on the same source, from the same
state, with the source in the page cache or not. Takes three times the size of the model on disk,
with --float32 five times.
"""

import argparse
import dataclasses
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import hf_shapes, write_config
from asclepius_jax.model.huggingface.safetensors import lay_out, plan_shards, write_index
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from data_prep.contract.tokenizer import JsonTokenizer, SentencePieceTokenizer, train_sentencepiece

TINYLLAMA = DecoderConfig(32_000, 2048, 5632, 22, 32, 4, head_dim=64, max_length=2048)
MODELS = {**VARIANTS, "tinyllama": TINYLLAMA}
ASCLEPIUS = [sys.executable, "-c", "from asclepius_jax.cli import main; main()"]
# What training does first with --init.hf, on four devices that share the model.
START = """
import sys
from pathlib import Path
import jax
from asclepius_jax.config import MeshConfig
from asclepius_jax.model.huggingface.names import load_params, read_config
from asclepius_jax.model.decoder import build
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
folder = Path(sys.argv[1])
model = build(read_config(folder))
jax.block_until_ready(load_params(folder, model, param_shardings(make_mesh(MeshConfig()), model)))
"""
# The import of a folder of bfloat16 into a checkpoint of float32, such as training leaves.
IN_FLOAT32 = """
import sys
from pathlib import Path
import numpy as np
from asclepius_jax import importing
importing.common_dtype = lambda *_: np.dtype(np.float32)
importing.run_import(importing.ImportConfig(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@dataclasses.dataclass(frozen=True)
class Run:
    seconds: float
    gibibytes: float  # largest resident size


def measured(*command: object) -> Run:
    os.sync()
    started = time.monotonic()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return Run(time.monotonic() - started, usage.ru_maxrss / 2**20)


def make_model(folder: Path, config: DecoderConfig) -> int:
    """A random folder in bfloat16; returns the bytes of its weights."""
    folder.mkdir(parents=True)
    shapes = hf_shapes(build(config))
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    shards = plan_shards(sizes, int(5e9))
    random = np.random.default_rng(0)
    for file, names in shards.items():
        starts = lay_out(folder / file, {name: shapes[name] for name in names}, "BF16")
        with (folder / file).open("r+b") as opened:
            for name in names:
                opened.seek(starts[name])
                for start in range(0, sizes[name], 2**23):
                    bits = random.integers(0, 2**16, min(2**23, sizes[name] - start) // 2, np.uint16)
                    # Sign and mantissa are random, the exponent is that of 0.008 to 0.03.
                    opened.write(((bits & 0x80FF) | 0x3C00).tobytes())
    write_index(folder, shards, sum(sizes.values()))
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(write_config(config, "bfloat16", ids))
    train_sentencepiece(["the patient was admitted with fever and cough"] * 50, folder / "made.model", 300)
    SentencePieceTokenizer(folder / "made.model").save(folder)
    JsonTokenizer(folder)
    (folder / "made.model").unlink()
    return sum(sizes.values())


def settle(source: Path, cached: bool, *made: Path) -> None:
    """The same state before each measurement: nothing made, the source in the page cache or not, nothing to write."""
    for path in made:
        shutil.rmtree(path, ignore_errors=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        with file.open("rb", buffering=0) as opened:
            while cached and opened.read(2**24):
                pass
            if not cached:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    os.sync()
    # A virtual machine takes back the pages that were freed; right after that they would still be quick to have.
    time.sleep(5)


def told(name: str, runs: list[Run], copies: list[Run] | None = None, start_up: float = 0.0) -> None:
    each = ", ".join(f"{run.seconds:.1f}" for run in runs)
    median = statistics.median(run.seconds for run in runs) - start_up
    ratio = f"{median / statistics.median(copy.seconds for copy in copies):.2f} x cp, " if copies else ""
    print(f"{name:<40} {each} s   {ratio}{max(run.gibibytes for run in runs):.2f} GiB", flush=True)


def in_turns(source: Path, out: Path, command: list[object], start_up: float, repeats: int, cached: bool) -> None:
    """`cp` of the source and the command that makes `out` of it, each from the same state."""
    copy = source.parent / "copy"
    copies, durable, ours = [], [], []
    for _ in range(repeats):
        settle(source, cached, copy, out)
        copies.append(measured("cp", "-r", source, copy))
        settle(source, cached, copy, out)
        durable.append(measured("sh", "-c", f"cp -r '{source}' '{copy}' && sync -f '{copy}'"))
        settle(source, cached, copy, out)
        ours.append(measured(*command))
    state = "from the page cache" if cached else "from the disk"
    told(f"cp {state}", copies)
    told(f"cp and sync, {state}", durable, copies)
    told(f"{command[len(ASCLEPIUS)]} {state}", ours, copies, start_up)
    told("  against cp and sync", ours, durable, start_up)  # the bridge syncs what it writes, cp alone does not


def start_up_seconds(work: Path) -> float:
    """Seconds of one import and one export of a tiny model, together."""
    folder, run_dir, out = (work / name for name in ("small_hf", "small_run", "small"))
    make_model(folder, DecoderConfig(512, 32, 64, 2, 4, 2, head_dim=8, max_length=256))
    runs = [measured(*ASCLEPIUS, "import", "--hf", folder, "--out", run_dir)]
    runs.append(measured(*ASCLEPIUS, "export", "--checkpoint", run_dir, "--out", out))
    return statistics.mean(run.seconds for run in runs)


def same_weights(one: Path, other: Path) -> bool:
    files = sorted(path.name for path in one.glob("*.safetensors"))
    return all(not subprocess.run(["cmp", "-s", one / file, other / file], check=False).returncode for file in files)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="tinyllama")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="export from a float32 checkpoint too")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    work = arguments.work / "bridge"
    folder, run_dir, out = (work / name for name in ("hf", "run", "out"))
    try:
        size = make_model(folder, MODELS[arguments.model])
        print(f"{arguments.model}: {size / 1e9:.2f} GB in bfloat16", flush=True)
        start_up = start_up_seconds(work)
        print(f"{'start-up, taken off the ratios':<40} {start_up:.1f} s", flush=True)
        importing = [*ASCLEPIUS, "import", "--hf", folder, "--out", run_dir]
        exporting = [*ASCLEPIUS, "export", "--checkpoint", run_dir, "--out", out]
        for cached in (True, False):
            in_turns(folder, run_dir, importing, start_up, arguments.repeats, cached)
        for cached in (True, False):
            in_turns(run_dir, out, exporting, start_up, arguments.repeats, cached)
        print(f"{'round trip bit for bit':<40} {same_weights(folder, out)}", flush=True)
        told("verify alone", [measured(*exporting, "--verify")])
        shutil.rmtree(out)
        if arguments.float32:
            shutil.rmtree(run_dir)
            measured(sys.executable, "-c", IN_FLOAT32, folder, run_dir)
            told("export from a float32 checkpoint", [measured(*exporting)])
            print(f"{'round trip bit for bit':<40} {same_weights(folder, out)}", flush=True)
            shutil.rmtree(out)
        shutil.rmtree(run_dir)
        os.environ["JAX_NUM_CPU_DEVICES"] = "4"
        if 2 * size < 0.6 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            start = measured(sys.executable, "-c", START, folder)
            print(
                f"{'start of training from it':<40} {start.seconds:.1f} s   {start.gibibytes:.2f} GiB, "
                f"{start.gibibytes - 2 * size / 2**30:.2f} more than its float32 shards"
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
