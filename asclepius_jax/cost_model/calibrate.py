"""Fit the constants of `speed` to published speeds, and report the remaining errors.

    python -m asclepius_jax.cost_model.calibrate published_throughput.csv

Each row is one configuration, with the columns
system,model,params,hardware,chips,sequence_length,sequences_per_chip,parallelism,remat,tokens_per_second_per_chip,source
"""

import csv
import dataclasses
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asclepius_jax.cost_model.hardware import DEVICES
from asclepius_jax.cost_model.speed import FITTED, Constants, Layout, Prediction, predict
from asclepius_jax.cost_model.topologies import TPUS, Topology
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from data_prep.contract.errors import UserError

# Trainers based on JAX, which use the same compiler. Only these are fitted, the others are only compared.
JAX_TRAINERS = ("MaxText", "AXLearn")
MODELS = {
    "llama2-7b": VARIANTS["llama2_7b"],
    "granite-7b": VARIANTS["llama2_7b"],
    "llama3.1-8b": VARIANTS["llama31_8b"],
    "mistral-7b": dataclasses.replace(VARIANTS["mistral_7b"], vocab_size=32_000),
    "llama2-70b": DecoderConfig(32_000, 8192, 28_672, 80, 64, 8),
    # It has two feed-forward matrices of width 16,384, which is as much work as three of two thirds of that width.
    "mpt-7b": DecoderConfig(50_368, 4096, 10_923, 32, 32, 32, tie_embeddings=True),
}
HARDWARE = {"H100": "h100", "A100-SXM-80G": "a100-80g", "TPU v4": "v4", "TPU v5p": "v5p", "TPU v6e": "v6e"}

# Values of `sequences_per_chip` for rows where it is empty but follows from the source: from step seconds x tokens per
# second (v6e), and from the configuration linked in the table of v5p.
STATED_ROWS = {("llama3.1-8b", 8): 3, ("mistral-7b", 8): 6, ("llama2-70b", 512): 4}
# The a3/ configurations are for Google's a3-highgpu-8g, which has four ports of 200 Gb/s for eight GPUs.
A3_NETWORK_BANDWIDTH = 4 * 200e9 / 8 / 8
# Assumptions for rows without remat. All recipes of v6e and v5p 70B that state it recompute gate, up and attention, as
# does AXLearn by default. Without recomputation, 8 x 4096 tokens do not fit an A100.
ASSUMED_REMAT = {"tpu": "published", "cuda": "full"}

# Prior of each constant, and the factor of one standard deviation: large products alone reach 0.9 of a TPU's peak and
# 0.7 of an H100's (711 of 989 TFLOP/s, measured by others), a float32 counts as two bfloat16, and rings reach 0.75 of
# the stated bandwidth.
EXPECTED = Constants(tpu_matrices=0.9, gpu_matrices=0.7, traffic=2.0, links=0.75)
SPREAD = Constants(tpu_matrices=1.2, gpu_matrices=1.2, traffic=2.0, links=1.3)
RESIDUAL = 0.1  # expected standard deviation of log(predicted / measured)
TOLERANCE = 0.01  # relative difference between fitted and stored constants that is accepted


@dataclass(frozen=True)
class Row:
    name: str
    is_jax: bool
    model: DecoderConfig
    topology: Topology
    layout: Layout
    measured: float  # tokens per second per device

    def predict(self, constants: Constants) -> Prediction:
        return predict(self.model, self.topology, self.layout, constants)


def read_rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    for before, record in itertools.pairwise(records):
        if record["source"].startswith("same"):
            record["source"] = before["source"]
    return [read_row(record) for record in records]


def read_row(record: dict[str, str]) -> Row:
    model_name = find(MODELS, record["model"])
    model, device = MODELS[model_name], DEVICES[HARDWARE[find(HARDWARE, record["hardware"])]]
    if abs(model.num_params / float(record["params"]) - 1) > 1e-3:
        raise UserError(
            f"{record['model']} has {model.num_params:,} parameters, but the file says {record['params']}: correct one"
        )
    if "a3/" in record["source"]:
        device = dataclasses.replace(device, network_bandwidth=A3_NETWORK_BANDWIDTH)
    chips, name = (
        int(record["chips"]),
        f"{record['system']} {record['model']}, {record['chips']} x {record['hardware']}",
    )
    rows = record["sequences_per_chip"] or STATED_ROWS.get((model_name, chips))
    if not rows:
        raise UserError(f"{name}: sequences_per_chip is empty: fill it in, or add the row to STATED_ROWS")
    data = re.search(r"data=(\d+)", record["parallelism"])
    replicas = int(data[1]) if data else 1
    # Gradients count as bfloat16: the compiler sums the gradient of a cast weight before casting it back.
    layout = Layout(
        replicas, chips // replicas, 1, 1, int(rows), int(record["sequence_length"]), 1,
        remat_of(record["remat"], device.platform), fsdp_gradient_bytes=2, data_gradient_bytes=2,
    )  # fmt: skip
    topology = Topology(f"{device.name}-{chips * cores_per_chip(device.name)}", device, chips)
    measured = float(record["tokens_per_second_per_chip"])
    return Row(name, record["system"] in JAX_TRAINERS, model, topology, layout, measured)


def remat_of(text: str, platform: str) -> str:
    if not text:
        return ASSUMED_REMAT[platform]
    known = {
        "saves attention context": "projections",
        "offloads": "published",
        "selective": "projections",
        "none": "none",
    }
    return known[find(known, text)]


def cores_per_chip(device: str) -> int:
    return TPUS[device].cores_per_chip if device in TPUS else 1


def find(names: dict, text: str) -> str:
    """The one name that the text contains. Raises UserError if there is none, or more than one."""
    found = [name for name in names if name in text]
    if len(found) != 1:
        raise UserError(f"{text!r} must contain exactly one of {', '.join(names)}")
    return found[0]


def fit(rows: list[Row]) -> Constants:
    """Least-squares fit of the logarithms of predicted over measured speeds, and of constants over their priors.

    Uses Gauss-Newton starting from the priors, which converges in a few steps for four unknowns.
    """
    expected, spread = (np.log(dataclasses.astuple(constants)) for constants in (EXPECTED, SPREAD))

    def residuals(logarithms: np.ndarray) -> np.ndarray:
        constants = Constants(*np.exp(logarithms))
        off = [np.log(row.predict(constants).tokens_per_second_per_device / row.measured) / RESIDUAL for row in rows]
        return np.append(off, (logarithms - expected) / spread)

    point, step = expected, 1e-5
    for _ in range(50):
        value = residuals(point)
        slopes = np.stack([(residuals(point + step * unit) - value) / step for unit in np.eye(len(point))], axis=1)
        move = np.linalg.lstsq(slopes, -value, rcond=None)[0]
        point = point + move * min(1, 0.5 / np.abs(move).max())
        if np.abs(move).max() < 1e-9:
            break
    return Constants(*np.exp(point).tolist())


def leave_one_out(rows: list[Row]) -> list[float]:
    """Tokens per second per device for each row, predicted with constants fitted to the other rows."""
    return [
        row.predict(fit([other for other in rows if other is not row])).tokens_per_second_per_device for row in rows
    ]


def errors_of(rows: list[Row], predicted: list[float]) -> list[float]:
    return [abs(each / row.measured - 1) for row, each in zip(rows, predicted, strict=True)]


def report(rows: list[Row], constants: Constants) -> str:
    jax_rows, others = [row for row in rows if row.is_jax], [row for row in rows if not row.is_jax]
    left_out = leave_one_out(jax_rows)
    lines = ["| published, JAX | tokens/s/chip | fitted | left out | error |", "|---|---:|---:|---:|---:|"]
    errors = errors_of(jax_rows, left_out)
    for row, held_out in zip(jax_rows, left_out, strict=True):
        fitted = row.predict(constants).tokens_per_second_per_device
        lines.append(
            f"| {row.name} | {row.measured:,.0f} | {fitted:,.0f} | {held_out:,.0f} | "
            f"{held_out / row.measured - 1:+.0%} |"
        )
    lines += ["", f"Left out: median error {np.median(errors):.0%}, worst {max(errors):.0%}.", ""]
    lines += ["| published, others | tokens/s/chip | predicted for us | measured / predicted |", "|---|---:|---:|---:|"]
    for row in others:
        predicted = row.predict(constants).tokens_per_second_per_device
        lines.append(f"| {row.name} | {row.measured:,.0f} | {predicted:,.0f} | {row.measured / predicted:.0%} |")
    values = ", ".join(f"{name}={value:.4g}" for name, value in dataclasses.asdict(constants).items())
    return "\n".join([*lines, "", f"Constants({values})"])


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: python -m asclepius_jax.cost_model.calibrate CSV", file=sys.stderr)
        return 2
    rows = read_rows(Path(arguments[0]))
    constants = fit([row for row in rows if row.is_jax])
    print(report(rows, constants))
    for name, value in dataclasses.asdict(constants).items():
        stored = getattr(FITTED, name)
        if abs(value / stored - 1) > TOLERANCE:
            print(f"speed.FITTED.{name} is {stored}, but a new fit gives {value:.4g}: update it", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
