"""Parts on a real Ray cluster of this machine, of which one half is taken away."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_prep.contract.errors import UserError
from data_prep.execution.on_ray import EngineConfig, run_on_ray
from data_prep.execution.shards import ShardsConfig
from data_prep.synthesize import notes
from data_prep.synthesize.notes import NotesConfig
from tests.data_prep.execution.test_parts import files_of, reports
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_machine_that_goes_away_costs_nothing_but_time(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = NotesConfig(reports(tmp_path / "reports.jsonl", 60), Path("notes"), ("all",), shards=ShardsConfig(2))
    notes.run(config)
    once = files_of(config.out)
    other = cluster.add_node(num_cpus=1)

    def lose_it() -> None:
        while not list(tmp_path.glob("notes.part-*/manifest.json")):
            time.sleep(0.05)
        # As a machine does that loses its power.
        for process in other.all_processes.values():
            for each in process:
                os.kill(each.process.pid, signal.SIGKILL)

    lost = threading.Thread(target=lose_it, daemon=True)
    lost.start()
    run_on_ray(notes, "run", config, EngineConfig("ray", cluster.address, 24))
    lost.join(5)
    assert not lost.is_alive()
    assert files_of(config.out) == once


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = NotesConfig(reports(tmp_path / "reports.jsonl", 120), Path("notes"), ("all",), shards=ShardsConfig(2))
    notes.run(config)
    once = files_of(config.out)
    config.out.rename("once")
    program = [sys.executable, "-c", "from asclepius_jax.cli import main; main()"]
    flags = f"--out notes --note-types all --shard-records 2 --engine ray --address {cluster.address} --parts 12"
    command = [*program, "notes", "--source", config.source, *flags.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for parts in (0, 1, 4, 7):  # that are done when the driver is killed, among others at work
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        while len(list(tmp_path.glob("notes.part-*/manifest.json"))) <= parts and driver.poll() is None:
            time.sleep(0.02)
        assert driver.poll() is None
        driver.kill()
        driver.wait()
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    told = driver.communicate()[1]
    assert driver.returncode == 0, told
    assert files_of(config.out) == once


def test_an_error_in_a_part_is_the_line_of_the_part(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"part \d of 2: .*empty"):
        run_on_ray(notes, "run", NotesConfig("empty.jsonl", Path("notes")), EngineConfig("ray", cluster.address, 2))
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run_on_ray(notes, "run", NotesConfig("empty.jsonl", Path("notes")), EngineConfig("ray", "127.0.0.1:1", 2))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An object store that the workers of `cluster` know, with another folder for their copies than the driver's."""
    from tests.helpers.endpoints.object_store import running

    with running() as made:
        for name, value in {**made.environment, "ASCLEPIUS_CACHE": str(tmp_path / "workers")}.items():
            monkeypatch.setenv(name, value)
        yield made


def test_parts_in_a_bucket_are_joined_there(store, cluster, tmp_path, monkeypatch):
    from data_prep.contract.folders.buckets.local_copies import fetch, fetch_output, sending
    from tests.helpers.endpoints.object_store import BUCKET

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "driver"))
    source = reports(tmp_path / "reports.jsonl", 60)
    once = NotesConfig(source, Path("once"), ("all",), shards=ShardsConfig(2))
    notes.run(once)
    store.write("reports.jsonl", Path(source).read_bytes())
    out = fetch_output(f"s3://{BUCKET}/data/notes")
    copied = NotesConfig(str(fetch(f"s3://{BUCKET}/reports.jsonl")), out, ("all",), shards=ShardsConfig(2))
    with sending([f"s3://{BUCKET}/data/notes"]):
        run_on_ray(notes, "run", copied, EngineConfig("ray", cluster.address, 6))
    monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "reader"))
    found, expected = files_of(fetch(f"s3://{BUCKET}/data/notes")), files_of(once.out)
    for files in (found, expected):  # names its source
        files.pop("manifest.json")
    assert found == expected
    assert len([*(tmp_path / "workers/buckets/s3/bucket/data").glob("notes.part-*-of-6")]) == 6
