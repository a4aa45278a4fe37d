"""Fit the constants of `speed` to published speeds, and report the remaining errors.

    python -m asclepius_jax.cost_model.calibrate benchmarks/published_speeds.csv

Each row of the file is one configuration. `remat` is a policy of this trainer, or what another trainer recomputes. Rows
whose column `fitted` is not yes are only compared, for the reason given there.
"""

import csv
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asclepius_jax.cost_model.speed import FITTED, INTERVAL, Constants, Layout, Prediction, predict
from asclepius_jax.cost_model.topologies import Topology, parse_topology
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig

MODELS = {
    "llama2-7b": VARIANTS["llama2_7b"],
    "granite-7b": VARIANTS["llama2_7b"],
    "fuji-7b": dataclasses.replace(VARIANTS["llama2_7b"], vocab_size=32_768, tie_embeddings=True),
    "llama3.1-8b": VARIANTS["llama31_8b"],
    "mistral-7b": dataclasses.replace(VARIANTS["mistral_7b"], vocab_size=32_000),
    "llama2-70b": DecoderConfig(32_000, 8192, 28_672, 80, 64, 8),
    "llama3.1-70b": DecoderConfig(128_256, 8192, 28_672, 80, 64, 8),
    "16b": DecoderConfig(32_000, 4096, 14_336, 64, 32, 32),
    "32b": DecoderConfig(32_000, 8192, 28_672, 32, 64, 64),
    # It has two feed-forward matrices of width 16,384, which is as much work as three of two thirds of that width.
    "mpt-7b": DecoderConfig(50_368, 4096, 10_923, 32, 32, 32, tie_embeddings=True),
}
# MaxText's speeds of GPUs are of Google's a3-highgpu-8g, which has four ports of 200 Gb/s for eight GPUs.
A3_NETWORK_BANDWIDTH = 4 * 200e9 / 8 / 8

# Prior of each constant, and the factor of one standard deviation: large products alone reach 0.9 of a TPU's peak and
# 0.7 of an H100's (711 of 989 TFLOP/s, measured by others), a float32 counts as two bfloat16, rings reach 0.75 of the
# stated bandwidth, and the compilers hide most of a gather.
EXPECTED = Constants(tpu_matrices=0.9, gpu_matrices=0.7, traffic=2.0, links=0.75, overlap=0.8)
SPREAD = Constants(tpu_matrices=1.2, gpu_matrices=1.2, traffic=2.0, links=1.3, overlap=1.2)
RESIDUAL = 0.1  # expected standard deviation of log(predicted / measured)
TOLERANCE = 0.01  # relative difference between fitted and stored constants that is accepted


@dataclass(frozen=True)
class Row:
    system: str
    name: str
    why_not: str  # the reason why it is not fitted, or nothing
    model: DecoderConfig
    topology: Topology
    layout: Layout
    measured: float  # tokens per second per device

    def predict(self, constants: Constants) -> Prediction:
        return predict(self.model, self.topology, self.layout, constants)

    @property
    def family(self) -> tuple[str, str]:
        """Rows of one trainer on one generation of devices share more than the constants."""
        return self.system, self.topology.device.name


def read_rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [read_row(record) for record in csv.DictReader(file)]


def read_row(record: dict[str, str]) -> Row:
    topology, data, system = parse_topology(record["topology"]), int(record["data"]), record["system"]
    if system == "MaxText" and topology.device.platform == "cuda":
        a3 = dataclasses.replace(topology.device, network_bandwidth=A3_NETWORK_BANDWIDTH)
        topology = dataclasses.replace(topology, device=a3)
    in_float8 = record["matmul"] == "float8"
    # Gradients count as bfloat16: the compiler sums the gradient of a cast weight before casting it back.
    layout = Layout(
        data, topology.count // data, 1, 1, int(record["rows_per_device"]), int(record["row_length"]),
        int(record["microbatches"]), record["remat"], fsdp_gradient_bytes=2, data_gradient_bytes=2,
        gathered_bytes=1 if in_float8 else 2, matmul=record["matmul"], native=in_float8,
    )  # fmt: skip
    name = f"{system} {record['model']}, {record['topology']}, rows of {record['row_length']}"
    return Row(
        system, name + ", float8" * in_float8, "" if record["fitted"] == "yes" else record["fitted"],
        MODELS[record["model"]], topology, layout, float(record["tokens_per_second_per_device"]),
    )  # fmt: skip


def fit(rows: list[Row]) -> Constants:
    """Least-squares fit of the logarithms of predicted over measured speeds, and of constants over their priors.

    Uses Gauss-Newton starting from the priors, which converges in a few steps for five unknowns.
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


def families_left_out(rows: list[Row]) -> list[float]:
    """Tokens per second per device for each row, predicted with constants fitted to the rows of other families.

    A row beside others of its family is predicted better than a machine that is not in the table.
    """
    constants = {family: fit([row for row in rows if row.family != family]) for family in {row.family for row in rows}}
    return [row.predict(constants[row.family]).tokens_per_second_per_device for row in rows]


def report(rows: list[Row], constants: Constants) -> str:
    fitted, others = [row for row in rows if not row.why_not], [row for row in rows if row.why_not]
    left_out = families_left_out(fitted)
    lines = ["| published, fitted | tokens/s per device | family left out | error |", "|---|---:|---:|---:|"]
    for row, alone in zip(fitted, left_out, strict=True):
        lines.append(f"| {row.name} | {row.measured:,.0f} | {alone:,.0f} | {alone / row.measured - 1:+.0%} |")
    ratios = np.array([row.measured / alone for row, alone in zip(fitted, left_out, strict=True)])
    errors = np.abs(1 / ratios - 1)
    inside = np.mean((INTERVAL[0] <= ratios) & (ratios <= INTERVAL[1]))
    lines += ["", f"Left out: median error {np.median(errors):.0%}, worst {max(errors):.0%}."]
    lines += [f"From {INTERVAL[0]} to {INTERVAL[1]} times the prediction: {inside:.0%} of {len(fitted)} rows.", ""]
    lines += [
        "| published, compared | tokens/s per device | predicted | ratio | not fitted |",
        "|---|---:|---:|---:|---|",
    ]
    for row in others:
        predicted = row.predict(constants).tokens_per_second_per_device
        ratio = f"{row.measured / predicted:.2f}"
        lines.append(f"| {row.name} | {row.measured:,.0f} | {predicted:,.0f} | {ratio} | {row.why_not} |")
    values = ", ".join(f"{name}={value:.4g}" for name, value in dataclasses.asdict(constants).items())
    return "\n".join([*lines, "", f"Constants({values})"])


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("usage: python -m asclepius_jax.cost_model.calibrate CSV", file=sys.stderr)
        return 2
    rows = read_rows(Path(arguments[0]))
    constants = fit([row for row in rows if not row.why_not])
    print(report(rows, constants))
    for name, value in dataclasses.asdict(constants).items():
        stored = getattr(FITTED, name)
        if abs(value / stored - 1) > TOLERANCE:
            print(f"speed.FITTED.{name} is {stored}, but a new fit gives {value:.4g}: update it", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
