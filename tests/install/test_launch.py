"""The launch scripts: on a TPU pod whose hosts are folders, in a container of Slurm, and as ShellCheck reads them."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

LAUNCH = ROOT / "launch"
# `gcloud compute tpus tpu-vm ssh|scp`, for hosts that are folders with a tmux server each.
GCLOUD = r"""#!/usr/bin/env bash
set -euo pipefail
worker=all command=
for each in "$@"; do
    case $each in --worker=*) worker=${each#*=} ;; --command=*) command=${each#*=} ;; esac
done
[ "$worker" != all ] || worker="0 1"
for number in $worker; do
    export HOME=$HOSTS/$number TMUX_TMPDIR=$HOSTS/$number
    case $4 in
        scp) cp "$5" "$HOME/" ;;
        ssh) (cd "$HOME" && bash -c "$command") ;;
    esac
done
"""
# `python3.11 -m venv`: a pip that does nothing, and a trainer that counts until it is told to stop.
PYTHON = r"""#!/usr/bin/env bash
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\necho "$*" >>~/pip.txt\n' >"$3/bin/pip"
cat >"$3/bin/asclepius" <<'END'
#!/usr/bin/env bash
printf '<%s>' "$@"; echo
trap 'echo saved; exit 0' TERM
for ((step = 1; step < 600; step++)); do echo "step $step"; sleep 0.1; done
END
chmod +x "$3"/bin/*
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which gcloud reaches a pod of two hosts."""
    if not shutil.which("tmux"):
        pytest.skip("tmux is not installed")
    executable(tmp_path / "bin/gcloud", GCLOUD)
    executable(tmp_path / "bin/python3.11", PYTHON)
    hosts = [tmp_path / "hosts" / number for number in "01"]
    for host in hosts:
        host.mkdir(parents=True)
    yield {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOSTS": str(tmp_path / "hosts")}
    for host in hosts:
        server = {**os.environ, "TMUX_TMPDIR": str(host)}
        subprocess.run(["tmux", "kill-server"], env=server, check=False, capture_output=True)


def test_a_run_on_a_pod_goes_on_when_its_launcher_is_hung_up_on(pod: dict[str, str], tmp_path: Path):
    logs = [tmp_path / "hosts" / number / "asclepius.log" for number in "01"]

    def steps(log: Path) -> int:
        return log.read_text().count("step") if log.exists() else 0

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(LAUNCH / "tpu_pod.sh"), "pod", "zone", *words]
        return subprocess.run(command, env=pod, capture_output=True, text=True, timeout=60, check=False)

    launcher = subprocess.Popen(
        [LAUNCH / "tpu_pod.sh", "pod", "zone", "instruct_7b", "--data.path", "/my data/$x", "--run-dir=it's"],
        env=pod, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup, around these tests, ignores
    )  # fmt: skip
    assert launcher.stdout
    for line in launcher.stdout:
        if line == "step 3\n":
            break
        assert not line.startswith("tpu_pod.sh"), line
    os.killpg(launcher.pid, signal.SIGHUP)
    assert launcher.wait(60) == -signal.SIGHUP

    before = [steps(log) for log in logs]
    await_true(lambda: all(steps(log) > count + 5 for log, count in zip(logs, before, strict=True)))
    for log in logs:
        assert log.read_text().startswith("<train><instruct_7b><--data.path></my data/$x><--run-dir=it's>\n")
    assert (tmp_path / "hosts/1/pip.txt").read_text().split() == [
        *("install --quiet --disable-pip-version-check -c constraints.txt -e .[tpu]".split())
    ]
    assert ask("status").stdout.count(": running; step") == 2
    again = ask("instruct_7b")
    assert again.returncode != 0
    assert "a run is going on" in again.stderr

    following = subprocess.Popen(
        [LAUNCH / "tpu_pod.sh", "pod", "zone", "logs"], env=pod, stdout=subprocess.PIPE, text=True
    )
    stopped = ask("stop")
    assert (stopped.returncode, stopped.stdout.count("the run ended with exit code 0")) == (0, 2), stopped
    said = following.communicate(timeout=30)[0]  # `logs` ends with the run
    assert "saved\nthe run ended with exit code 0\n" in said
    assert ask("status").stdout.count("not running; the run ended with exit code 0") == 2


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ["--kill-on-bad-exit=1", "launch/train.sh"]),
        (
            {"CONTAINER": "pyxis", "IMAGE": "registry/a/b:cuda", "MOUNTS": "/data,/runs"},
            ["--kill-on-bad-exit=1", "--container-image=registry#a/b:cuda",
             "--container-mounts=/data:/data,/runs:/runs", "--container-workdir=FOLDER", "asclepius", "train"],
        ),
        (
            {"CONTAINER": "apptainer", "IMAGE": "registry/a/b:cuda"},
            ["--kill-on-bad-exit=1", "apptainer", "exec", "--nv", "--bind", "FOLDER", "--pwd", "FOLDER",
             "docker://registry/a/b:cuda", "asclepius", "train"],
        ),
    ],
)  # fmt: skip
def test_slurm_starts_the_checkout_or_an_image(settings: dict[str, str], wanted: list[str], tmp_path: Path):
    executable(tmp_path / "bin/srun", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1", **settings}
    command = [LAUNCH / "slurm.sbatch", "instruct_7b", "--data.path", "my rows"]
    done = subprocess.run(["bash", *command], env=environment, capture_output=True, text=True, check=True)
    given = done.stdout.replace(str(tmp_path), "FOLDER").splitlines()
    assert given == [*wanted, "instruct_7b", "--data.path", "my rows"]


def test_an_image_is_named_once_in_each_file_and_alike():
    found = {
        path.name: re.findall(r"REGION-docker\.pkg\.dev/[\w/:-]+", path.read_text())
        for path in LAUNCH.iterdir()
        if path.suffix in (".yaml", ".sbatch")
    }
    assert all(len(names) == 1 for names in found.values()), found
    assert {names[0].rpartition(":")[0] for names in found.values()} == {
        "REGION-docker.pkg.dev/PROJECT/REPOSITORY/asclepius-jax"
    }


def test_shellcheck_has_no_remark():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    scripts = [name for name in tracked if name.endswith((".sh", ".sbatch")) or name == ".ci/run"]
    assert len(scripts) >= 9
    done = subprocess.run(["shellcheck", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
