"""The command that a plan ends with starts the run that was planned, on the hosts that were planned."""

import shlex

import pytest

from asclepius_jax.cost_model.topologies import parse_topology
from asclepius_jax.plan.compile import PlanOptions
from asclepius_jax.plan.start_command import start_command, train_arguments

GIVEN = "--data.path '/data/my rows' --batch.global-batch=64 --optimizer.peak-learning-rate 1e-4 --no-log.progress"


@pytest.mark.parametrize(
    "own",
    [
        "--topology h100-8",
        "--topology=h100-8 --json --price 2.5 --rows=1000",
        "--no-search --save step.bin --topology h100-8 --out mine.py",
    ],
)
def test_the_arguments_of_a_plan_without_its_own_are_those_of_the_run(own: str):
    assert train_arguments(shlex.split(f"pretrain_7b {own} {GIVEN}"), PlanOptions("h100-8")) == shlex.split(
        f"pretrain_7b {GIVEN}"
    )


@pytest.mark.parametrize(
    ("topology", "start"),
    [
        ("cpu-8", "launch/train.sh mine.py"),
        ("h100-8", "launch/train.sh mine.py"),
        ("h100-32", "sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sbatch mine.py"),
        ("v5e-8", "launch/train.sh mine.py"),
        ("v5e-64", "launch/tpu_pod.sh NAME ZONE mine.py"),
        ("v5e-256x2", "replicas 2, parallelism and completions 64, topology 16x16 and the arguments mine.py"),
        ("v5p-16", "launch/tpu_pod.sh NAME ZONE mine.py"),
    ],
)
def test_every_machine_is_started_by_its_launcher(topology: str, start: str):
    assert start in start_command(parse_topology(topology), ["mine.py"])


def test_arguments_reach_the_shell_as_they_were_given():
    command = start_command(parse_topology("h100-32"), ["c.py", "--data.path", "/data/my rows"])
    assert shlex.split(command)[-2:] == ["--data.path", "/data/my rows"]
