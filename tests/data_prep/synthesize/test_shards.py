"""A stage as a map over shards: the same output for any number of workers, and never everything at once."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from data_prep.contract.errors import UserError
from data_prep.contract.records import CaseReport, Reject
from data_prep.execution.shards import (
    ShardsConfig,
    check_shards,
    first,
    in_shards,
    map_in_processes,
    map_on_one_loop,
    work_on_shard,
)
from data_prep.teachers.base import Reply, Request


class Echo:
    """A teacher that repeats the last message, the later records of a shard sooner than the first."""

    name = "echo"

    async def close(self):
        pass

    async def ask(self, request):
        await asyncio.sleep(0.02 if request.record_id.endswith("0") else 0)
        return Reply(request.messages[-1]["content"], "stop", "echo")


async def twice(report, teacher):
    """Two results for most reports, a reject for some."""
    reply = await teacher.ask(Request("note", report.id, ({"role": "user", "content": report.text},)))
    if report.id.endswith("7"):
        return [Reject.of(report, "empty")]
    return [CaseReport(f"{report.id}-{k}", reply.text, "s", "l") for k in range(2)]


async def die(report, teacher):
    os._exit(1)


async def refuse(report, teacher):
    if report.id == "r5":
        raise UserError("the key is refused")
    await asyncio.sleep(60)


async def whose(report, teacher):
    return [CaseReport(report.id, str(os.getpid()), "s", "l")]


def reports(count):
    return [CaseReport(f"r{k}", f"text {k}", "s", "l") for k in range(count)]


def test_shards_and_limits():
    assert list(in_shards(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    bad = Reject("x", "malformed", "", "")
    assert list(first([bad, *reports(5)], 2)) == [bad, *reports(2)]
    assert len(list(first([bad, *reports(5)], 0))) == 6


def test_the_output_is_the_same_for_any_number_of_workers():
    expected = [asyncio.run(work_on_shard(twice, shard, Echo())) for shard in in_shards(reports(50), 4)]
    for workers in (1, 2, 3):
        assert list(map_in_processes(twice, Echo, in_shards(reports(50), 4), workers)) == expected
    assert list(map_on_one_loop(twice, Echo, in_shards(reports(50), 4))) == expected


def test_workers_are_other_processes():
    results = map_in_processes(whose, Echo, in_shards(reports(40), 4), 2)
    assert str(os.getpid()) not in {record.text for shard in results for record in shard}


@pytest.mark.parametrize("how", ["processes", "one process", "loop"])
def test_only_a_few_shards_are_in_memory(how):
    read = written = most = 0

    def counted():
        nonlocal read
        for report in reports(200):
            read += 1
            yield report

    shards = in_shards(counted(), 2)
    results = {
        "processes": lambda: map_in_processes(twice, Echo, shards, 2),
        "one process": lambda: map_in_processes(twice, Echo, shards, 1),
        "loop": lambda: map_on_one_loop(twice, Echo, shards, 4),
    }[how]()
    for _ in results:
        most = max(most, read - written)
        written += 2
    assert read == written == 200
    assert most <= 10


def test_the_slow_end_of_a_shard_does_not_hold_up_the_next():
    finished = []

    async def work(report, teacher):
        if report.id == "r0":
            while len(finished) < 5:
                await asyncio.sleep(0.001)
        finished.append(report.id)
        return [report]

    shards = map_on_one_loop(work, Echo, in_shards(reports(6), 2), 3)
    assert [record.id for shard in shards for record in shard] == [f"r{k}" for k in range(6)]
    assert finished[-1] == "r0"


def test_rejects_from_reading_pass_through_in_their_place():
    bad = Reject("x", "malformed", "", "")
    assert asyncio.run(work_on_shard(twice, [bad, *reports(1)], Echo()))[0] == bad


def test_an_error_of_the_users_ends_the_run_at_once():
    started = time.monotonic()
    with pytest.raises(UserError, match="the key is refused"):
        # The first shard sleeps for a minute, unless the error of the second reaches it.
        list(map_on_one_loop(refuse, Echo, in_shards(reports(12), 4)))
    assert time.monotonic() - started < 20


def test_an_error_of_the_users_comes_out_of_a_worker_as_it_was():
    with pytest.raises(UserError, match="the key is refused"):
        list(map_in_processes(refuse, Echo, in_shards([reports(6)[5]] * 2, 1), 2))


def test_a_killed_worker_is_reported():
    with pytest.raises(UserError, match="fewer --workers"):
        list(map_in_processes(die, Echo, in_shards(reports(12), 4), 2))


def test_settings_that_cannot_work():
    for config in (ShardsConfig(workers=-1), ShardsConfig(limit=-1), ShardsConfig(shard_records=0)):
        with pytest.raises(UserError, match="must be"):
            check_shards(config)


def test_stage_modules_import_in_an_instant():
    heavy = ["pyarrow", "datasets", "openai", "tensorflow", "jax", "pandas"]
    stages = "data_prep.synthesize.notes, data_prep.synthesize.instructions"
    code = f"import sys, {stages}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def stumble(report, teacher):
    if report.id == "r3":
        raise ZeroDivisionError("a text that nobody foresaw")
    return [report]


def test_one_record_never_ends_a_run(capsys):
    """With a paid teacher, every rerun would end at the same reply."""
    results = asyncio.run(work_on_shard(stumble, reports(5), Echo()))
    assert [result.id for result in results] == ["r0", "r1", "r2", "r3", "r4"]
    assert isinstance(results[3], Reject)
    assert (results[3].reason, results[3].detail) == (
        "internal_error", "ZeroDivisionError: a text that nobody foresaw",
    )  # fmt: skip
    assert "r3 is rejected after an internal error" in capsys.readouterr().err
