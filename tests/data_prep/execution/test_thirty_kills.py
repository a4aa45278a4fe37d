"""Thirty random kills of one job that part processes, Ray and Slurm share, against an endpoint that fails on purpose.

The engines work in turn on the same part folders; what still runs under one when another starts is killed too. Slurm
takes part if there is one: `tests/slurm/run_slurm.sh kills`.

A stopped process stands for a host that fell silent: its folder lock names another host, and the lock file of its
ledger is removed, as a file server drops a lock. The requests in flight at a kill are counted by the writer that takes
the ledger over.
"""

import functools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_prep.execution.cost_shares import shares_of
from tests.data_prep.execution.test_parts import files_of
from tests.data_prep.teachers.endpoint.test_endpoint_chaos import endpoint, paid, write_source
from tests.helpers.endpoints.chaos_endpoint import LOST
from tests.helpers.places import ROOT
from tests.helpers.text_stages import free_port

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="ray is not installed")

SEED = int(os.environ.get("KILLS_SEED", "1"))
KILLS, REPORTS, PARTS, CONCURRENCY = 30, 600, 6, 4
SILENCE = 3.0
PROGRAM = [sys.executable, "-c", "from asclepius_jax.cli import main; main()"]
# For every process of the job: set its host name, shorten the lock's intervals, log the requests found in flight.
SITE = f"""
import os
if name := os.environ.get("KILLS_HOST"):
    from data_prep.contract.folders import holder
    from data_prep.teachers.endpoint.ledger import Ledger
    holder.BEAT_SECONDS, holder.SILENCE_SECONDS = 0.3, {SILENCE}
    holder.place = lambda: {{"host": name, "pid_namespace": ""}}
    take_over = Ledger.take_over
    def noted(ledger):
        found = take_over(ledger)
        with open(os.environ["KILLS_LOG"], "a") as file:
            file.write(f"{{os.getpid()}} {{ledger.path.name}} {{found}}\\n")
        return found
    Ledger.take_over = noted
"""
# Messages of a process that ends because another one has its part, or because its share of the cost is spent until
# finished parts have left something.
TAKEN_OVER = ("has taken over", "seemed dead")
REFUSALS = (*TAKEN_OVER, "is in use by process", "another run uses the ledger")


def environment(folder: Path, host: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{folder / 'site'}:{ROOT}",
        "KILLS_HOST": host,
        "KILLS_LOG": str(folder / "taken-over.log"),
        "RAY_AUTH_MODE": "disabled",
    }


@dataclass
class Started:
    process: subprocess.Popen[bytes]
    said: Path
    part: int = 0

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Mix:
    """The job, the processes that work on it, and the counts of kills."""

    folder: Path
    flags: list[str]
    most: float
    draw: random.Random
    cluster: Any
    kills: Counter[str] = field(default_factory=Counter)
    processes: list[Started] = field(default_factory=list)
    driver: Started | None = None
    nodes: list[Any] = field(default_factory=list)
    array: str = ""
    count: int = 0
    refused: int = 0
    out_of_share: int = 0
    within_commits: int = 0
    most_spent: float = 0.0

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def part(self, number: int) -> Path:
        return self.folder / f"out.part-{number}-of-{PARTS}"

    def unfinished(self) -> list[int]:
        return [number for number in range(1, PARTS + 1) if not (self.part(number) / "manifest.json").exists()]

    def sent(self) -> int:
        return sum(paid(self.folder / "chaos").values())

    # ------------------------------------------------------------ starts and ends

    def start(self, host: str, *more: str, part: int = 0) -> Started:
        self.count += 1
        said = self.folder / f"said-{self.count:03d}-{host}.txt"
        with said.open("w") as file:
            process = subprocess.Popen(
                [*PROGRAM, *self.flags, *more], stderr=file, stdout=file, cwd=self.folder,
                env=environment(self.folder, host),
            )  # fmt: skip
        return Started(process, said, part)

    def start_part(self, number: int, host: str) -> Started:
        started = self.start(host, "--part", f"{number}/{PARTS}", part=number)
        self.processes.append(started)
        return started

    def reap(self) -> None:
        """Forget processes that have ended: successfully, or because another process has the part."""
        for started in [*self.processes, *filter(None, [self.driver])]:
            if started.runs:
                continue
            said = started.said.read_text()
            if started.process.returncode:
                out_of_share = "--max-cost" in said
                assert out_of_share or any(each in said for each in REFUSALS), said
                self.refused += not out_of_share
                self.out_of_share += out_of_share
            if started is self.driver:
                self.driver = None
            else:
                self.processes.remove(started)

    def until(self, ready: Callable[[], Any], seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > ends:
                return False
            time.sleep(0.02)
        return True

    def until_sent(self, count: int, working: Callable[[], Any], seconds: float = 20) -> None:
        """Wait until the endpoint has received `count` more requests, or `working` is false."""
        target = self.sent() + count
        self.until(lambda: self.sent() >= target or not working(), seconds)

    def clear(self, engine: str) -> None:
        """Kill everything that runs under other engines. These kills are counted apart from the thirty."""
        self.reap()
        if engine != "processes":
            for started in self.processes:
                started.kill()
                self.kills["further: part processes"] += 1
            self.processes.clear()
        if engine != "ray" and self.driver:
            self.driver.kill()
            self.driver = None
            self.kills["further: Ray drivers"] += 1
        if engine != "slurm" and self.array:
            self.kills["further: Slurm tasks"] += len(self.slurm_tasks())
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], check=True)
            subprocess.run(["scancel", "--user=root"], check=True)
            self.until(lambda: not self.squeue(), 60)
            self.array = ""

    # ------------------------------------------------------------ kinds of kills: False if there was nothing to kill

    def kill_process(self) -> bool:
        self.clear("processes")
        free = [number for number in self.unfinished() if number not in [each.part for each in self.processes]]
        self.draw.shuffle(free)
        while len(self.processes) < 2 and free:
            self.start_part(free.pop(), self.draw.choice("ab"))
        if not self.processes:
            self.start_part(self.draw.randint(1, PARTS), "a")  # which reads its ledger again
        self.until_sent(self.draw.randint(1, 6), lambda: any(each.runs for each in self.processes))
        alive = [each for each in self.processes if each.runs]
        if not alive:
            return False
        victim = self.draw.choice(alive)
        victim.kill()
        self.processes.remove(victim)
        return True

    def stop_process(self) -> bool:
        self.clear("processes")
        busy = [each.part for each in self.processes]
        number = self.draw.choice([each for each in self.unfinished() if each not in busy] or [1])
        sleeping = self.start_part(number, "a")
        lock = self.folder / f".{self.part(number).name}.asclepius/lock.json"
        ledger = Path(f"{self.part(number)}.ledger.sqlite")
        self.until(lambda: not sleeping.runs or holder_of(lock) == sleeping.process.pid, 30)
        self.until_sent(self.draw.randint(1, 6), lambda: sleeping.runs)
        if not sleeping.runs:
            return False
        sleeping.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            if holder_of(lock) != sleeping.process.pid:
                return False  # it was just over
            Path(f"{ledger}.lock").unlink(missing_ok=True)
            awake = self.start_part(number, "b")
            # On this disk, unlike on a server's, a process that is stopped within a commit keeps the database locked.
            locked = "is locked by another program"
            done = functools.partial(self.has_taken_over, awake)
            assert self.until(lambda: done() or locked in awake.said.read_text(), 30), awake.said.read_text()
            self.within_commits += not done()
            assert time.monotonic() - stopped > SILENCE
            self.until_sent(self.draw.randint(0, 4), lambda: awake.runs, 5)
        finally:
            sleeping.process.send_signal(signal.SIGCONT)
        assert self.until(done, 30), awake.said.read_text()
        assert sleeping.process.wait(30) == 2, sleeping.said.read_text()
        assert any(each in sleeping.said.read_text() for each in TAKEN_OVER), sleeping.said.read_text()
        self.processes.remove(sleeping)
        return True

    def on_ray(self) -> bool:
        """Start a driver if none runs, and let it work; False if it ended before the kill."""
        self.clear("ray")
        if self.driver is None:
            flags = ("--engine", "ray", "--address", self.cluster.address, "--parts", str(PARTS))
            self.driver = self.start("driver", *flags)
        driver = self.driver
        self.until_sent(self.draw.randint(1, 10), lambda: driver.runs, 40)
        return driver.runs

    def kill_driver(self) -> bool:
        if not self.on_ray() or self.driver is None:
            return False
        self.driver.kill()
        self.driver = None
        return True

    def kill_node(self) -> bool:
        if not self.on_ray():
            return False
        node = self.nodes.pop(self.draw.randrange(len(self.nodes)))
        roots = [psutil.Process(each.process.pid) for every in node.all_processes.values() for each in every]
        for process in [child for root in roots for child in root.children(recursive=True)] + roots:
            kill_if_there(process)
        self.cluster.worker_nodes.discard(node)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        return True

    def kill_slurm_task(self) -> bool:
        self.clear("slurm")
        if not self.array or not self.squeue():
            told = subprocess.run(
                [str(ROOT / "launch/slurm_parts.sh"), str(PARTS), *self.flags], cwd=self.folder, text=True,
                env=environment(self.folder, "slurm"), check=True, capture_output=True,
            ).stdout  # fmt: skip
            self.array = re.findall(r"job (\d+): \d+ parts", told)[0]
        self.until(self.slurm_tasks, 60)
        self.until_sent(self.draw.randint(1, 6), self.slurm_tasks, 30)
        tasks = self.slurm_tasks()
        if not tasks:
            return False
        number, process = self.draw.choice(tasks)
        if self.draw.random() < 0.5:
            os.kill(process, signal.SIGKILL)
        else:
            task = f"{self.array}_{number}"
            subprocess.run(["scancel", "--signal=KILL", "--full", task], check=True, capture_output=True)
            self.until(lambda: not psutil.pid_exists(process), 20)
        return True

    def squeue(self) -> str:
        return subprocess.run(["squeue", "--noheader"], check=True, capture_output=True, text=True).stdout

    def slurm_tasks(self) -> list[tuple[int, int]]:
        """Numbers of the parts that Slurm is working on, and their process ids."""
        locks = {
            number: self.folder / f".{self.part(number).name}.asclepius/lock.json" for number in range(1, PARTS + 1)
        }
        found = [(number, holder_of(lock, "slurm")) for number, lock in locks.items()]
        return [(number, pid) for number, pid in found if pid and psutil.pid_exists(pid)]

    # ------------------------------------------------------------ figures

    def taken_over(self) -> list[list[str]]:
        log = self.folder / "taken-over.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def has_taken_over(self, started: Started) -> bool:
        return str(started.process.pid) in {line[0] for line in self.taken_over()}

    def check_cost(self) -> None:
        spent = 0.0
        for ledger in self.folder.glob("out.part-*.ledger.sqlite"):
            with closing(sqlite3.connect(ledger, timeout=60)) as database:
                spent += database.execute("SELECT coalesce(sum(cost), 0) FROM calls").fetchone()[0]
        self.most_spent = max(self.most_spent, spent)
        assert spent <= self.most
        with shares_of(self.out) as shares:
            assert sum(sum(each.values()) for each in shares.values()) <= self.most * (1 + 1e-9)


def holder_of(lock: Path, host: str = "") -> int:
    try:
        holder = json.loads(lock.read_bytes())
    except (OSError, ValueError):
        return 0
    return int(holder["pid"]) if host in ("", holder["host"]) else 0


def kill_if_there(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    for name, value in environment(tmp_path, "ray").items():
        monkeypatch.setenv(name, value)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_thirty_kills_of_every_kind_cost_what_was_in_flight(tmp_path, cluster, capsys):
    source, port = write_source(tmp_path / "a.jsonl", REPORTS), free_port()
    flags = [
        "notes", "--source", str(source), "--out", str(tmp_path / "out"), "--teacher", "openai", "--model", "m",
        "--base-url", f"http://127.0.0.1:{port}/v1", "--concurrency", str(CONCURRENCY), "--timeout-seconds", "5",
        "--shard-records", "10", "--on-unsupported", "keep", "--max-tokens", "256", "--price-input", "1",
        "--price-output", "2",
    ]  # fmt: skip
    with endpoint(port, tmp_path / "calm", 0, 0.01):
        subprocess.run([*PROGRAM, *flags], check=True, capture_output=True, cwd=tmp_path)
    unbroken = files_of(tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out.ledger.sqlite")) as database:
        price = database.execute("SELECT sum(cost) FROM calls").fetchone()[0]
    (tmp_path / "out").rename(tmp_path / "unbroken")
    most = 3 * price
    mix = Mix(tmp_path, [*flags, "--max-cost", str(most)], most, random.Random(SEED), cluster)
    mix.nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    kinds: dict[str, Callable[[], bool]] = {
        "part process": mix.kill_process,
        "writer stopped": mix.stop_process,
        "Ray driver": mix.kill_driver,
        "Ray node": mix.kill_node,
    }
    if os.environ.get("KILLS_SLURM"):  # a cluster of this test alone
        kinds["Slurm task"] = mix.kill_slurm_task
    order = (sorted(kinds) * KILLS)[:KILLS]
    mix.draw.shuffle(order)
    began = time.monotonic()
    with endpoint(port, tmp_path / "chaos", 1, 0.5):
        for kind in order:
            for _ in range(8):
                if kinds[kind]():
                    break
            else:
                raise AssertionError(f"nothing to kill: {kind}")
            mix.kills[kind] += 1
            mix.check_cost()
            with capsys.disabled():
                done, seconds = PARTS - len(mix.unfinished()), time.monotonic() - began
                print(f"{seconds:4.0f} s, {kind}: {mix.sent()} requests, {done} parts done", flush=True)
        finish(mix)
    folders = [str(mix.part(number)) for number in range(1, PARTS + 1)]
    shutil.rmtree(mix.out, ignore_errors=True)  # a driver may have come to its end
    subprocess.run([*PROGRAM, "join", *folders, "--out", str(mix.out)], check=True, capture_output=True)
    mix.check_cost()
    ends = paid(tmp_path / "chaos")
    lost, sent = sum(ends[name] for name in LOST), sum(ends.values())
    in_flight = sum(int(line[2]) for line in mix.taken_over())
    same = files_of(mix.out) == unbroken
    line = (
        f"seed {SEED}, {mix.kills.total()} kills: {dict(mix.kills)}; {mix.within_commits} stopped within a commit, "
        f"{mix.refused} refused, {mix.out_of_share} out of their share of the cost; {sent} requests for {REPORTS}, "
        f"lost by the endpoint {lost}, in flight at kills {in_flight}; charged {sent * price / REPORTS:.4f}, "
        f"counted {mix.most_spent:.4f}, limit {most:.4f} USD; same bytes: {same}"
    )
    with capsys.disabled():
        print(line)
    assert same, line
    assert sent <= REPORTS + lost + in_flight, line
    assert in_flight <= mix.kills.total() * CONCURRENCY * 2, line  # Ray runs two parts at a time


def finish(mix: Mix) -> None:
    """Start everything again until all parts are done."""
    mix.clear("")
    ends = time.monotonic() + 300
    while mix.unfinished():
        assert time.monotonic() < ends
        mix.reap()
        busy = [each.part for each in mix.processes]
        for number in [each for each in mix.unfinished() if each not in busy][: 2 - len(busy)]:
            mix.start_part(number, "c")
        time.sleep(0.2)
    mix.until(lambda: not any(each.runs for each in mix.processes), 60)
    mix.reap()
