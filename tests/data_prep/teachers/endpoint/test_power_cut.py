"""A power cut loses what was not synchronized: what was paid for is still there, or reported as perhaps paid twice."""

import random
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from data_prep.teachers.base import BatchConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger_tables import add_functions
from tests.helpers.endpoints.fake_batches import FakeBatches, good
from tests.helpers.endpoints.fake_endpoint import AT_ONCE, FakeEndpoint, completion, failure
from tests.helpers.endpoints.power_cut import AVAILABLE, Machine, compile_shim
from tests.helpers.text_stages import ask, usage

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs Linux and a C compiler")
REQUESTS, CONCURRENCY = 40, 8
# About the synchronizations and the HTTP requests of a run. If it has fewer, the power is cut when it has ended.
SYNCS, CALLS = {"live": 28, "batch": 18}, {"live": 48, "batch": 12}
RUN = """
from pathlib import Path
from data_prep.teachers.base import BatchConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from tests.helpers.text_stages import ask
class endpoint: url = {url!r}
ask(endpoint, Path({folder!r}), {count}, **{settings!r})
"""
PRICES = BudgetConfig(price_input=1.0, price_output=4.0)
LIVE = {"concurrency": CONCURRENCY, "max_retries": 6, "max_tokens": 100, "budget": PRICES}
SETTINGS = {"live": LIVE, "batch": {**LIVE, "batches": BatchConfig(batch=True, batch_poll_seconds=0.02)}}
POINTS = [3, pytest.param(30, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


class Cut:
    """A run that a power cut ends at a random moment: at a synchronization, or at a request to the endpoint."""

    def __init__(self, machine: Machine, kind: str, draw: random.Random):
        self.machine, self.kind = machine, kind
        self.at_sync, self.before, self.at_call = 0, draw.random() < 0.5, 0
        if draw.random() < 0.5:
            self.at_sync = draw.randint(1, SYNCS[kind])
        else:
            self.at_call = draw.randint(1, CALLS[kind])
        self.process: subprocess.Popen[str] | None = None

    def on_call(self, number: int) -> None:
        if number == self.at_call and self.process:
            self.process.kill()

    def run_twice(self, endpoint):
        """The replies of the rerun, and its teacher."""
        folder, settings = self.machine.watched.parent, SETTINGS[self.kind]
        code = RUN.format(url=endpoint.url, folder=str(folder), count=REQUESTS, settings=settings)
        self.process = self.machine.start(code, self.at_sync, self.before)
        told = self.process.communicate()[1]
        assert self.process.returncode in (0, -signal.SIGKILL), told
        self.process = None
        self.machine.start_again()
        return ask(endpoint, folder, REQUESTS, **settings)


def by_seed(ledger: Path, column: str) -> Counter[int]:
    statement = f"SELECT json_extract(unpacked(request), '$.seed'), {column} FROM calls JOIN requests USING (key)"
    with sqlite3.connect(ledger) as database:
        add_functions(database)
        return Counter(dict(database.execute(statement)))


def assert_all_is_known(machine: Machine, paid: Counter[int], price: float, teacher) -> int:
    """Nothing was paid twice that is not reported, request by request; the number of what was."""
    uncertain, costs = by_seed(machine.watched, "uncertain"), by_seed(machine.watched, "cost")
    for seed in range(REQUESTS):
        assert paid[seed] <= 1 + uncertain[seed], seed
        assert costs[seed] >= price * paid[seed] - 1e-12, seed
    assert teacher.meter.uncertain == uncertain.total()
    return paid.total() - REQUESTS


@pytest.mark.parametrize("points", POINTS)
def test_one_by_one(tmp_path, shim, points):
    draw, twice, reported = random.Random(points), 0, 0
    for point in range(points):
        paid: Counter[int] = Counter()
        garbled = 0

        machine = Machine(shim, tmp_path / str(point) / "ledger.sqlite")
        cut = Cut(machine, "live", draw)

        def answer(body, n, paid=paid, cut=cut):
            nonlocal garbled
            cut.on_call(n + 1)
            if n % 7 == 3:
                return failure(429, **AT_ONCE)
            if n % 11 == 5:
                return failure(500, **AT_ONCE)
            paid[body["seed"]] += 1
            if n % 13 == 6:
                garbled += 1
                return 200, {}, completion("x")[2][:40]
            return usage(f"reply to {body['seed']}", 20, 30)

        with FakeEndpoint(answer) as endpoint:
            replies, teacher = cut.run_twice(endpoint)
        assert [reply.text for reply in replies] == [f"reply to {seed}" for seed in range(REQUESTS)]
        twice += assert_all_is_known(machine, paid, (20 * 1 + 30 * 4) / 1e6, teacher)
        assert teacher.meter.uncertain <= CONCURRENCY + garbled
        reported += teacher.meter.uncertain
    print(f"{points} cuts of {REQUESTS} requests: {twice} paid twice, {reported} reported as perhaps paid twice")


@pytest.mark.parametrize("points", POINTS)
def test_in_batches(tmp_path, shim, points):
    draw, batches = random.Random(points), 0
    for point in range(points):
        machine = Machine(shim, tmp_path / str(point) / "ledger.sqlite")
        cut = Cut(machine, "batch", draw)
        # One request is charged and in none of the files.
        with FakeBatches(lambda body, n: None if n == 7 else good(body, f"reply to {body['seed']}")) as endpoint:
            endpoint.on_call = cut.on_call
            replies, teacher = cut.run_twice(endpoint)
        assert [reply.text for reply in replies] == [f"reply to {seed}" for seed in range(REQUESTS)]
        paid = Counter(body["seed"] for body in endpoint.requests)
        assert assert_all_is_known(machine, paid, (100 * 1 + 50 * 4) / 1e6 / 2, teacher) == 1
        assert teacher.meter.uncertain == 1
        batches += len(endpoint.batches)
    print(f"{points} cuts of {REQUESTS} requests in batches: {batches} batches, none of them a second time")
