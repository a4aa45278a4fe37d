"""A stage in parts and their join: the bytes of one run, whatever the number of parts, and nothing asked twice."""

import dataclasses
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asclepius_jax.cli import dispatch
from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import local_path
from data_prep.contract.manifests import read_manifest
from data_prep.curate import split
from data_prep.curate.split import SplitConfig
from data_prep.execution.cost_shares import settle_share, take_share
from data_prep.execution.parts import (
    JoinConfig,
    Part,
    as_json,
    command_of,
    from_json,
    read_part,
    settings_of_stage,
)
from data_prep.execution.shards import ShardsConfig
from data_prep.pack import run as pack
from data_prep.pack.run import PackConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.teachers.base import TeacherConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger import Ledger
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.endpoints.object_store import BUCKET, running
from tests.helpers.endpoints.second_readers import is_reading, knows, reads
from tests.helpers.made_inputs import make_tokenizer
from tests.helpers.text_stages import TEXT, api, usage

TYPES = ("discharge summary", "history and physical")


def reports(path: Path, count: int) -> str:
    """Reports of which every fifth is the same text as another one, so that duplicates lie in different parts."""
    rows = [
        {"id": f"r{k}", "text": TEXT.format(age=20 + k % (count - count // 5)), "licence": "CC0"} for k in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def in_parts(run: Callable[[Any], Any], config: Any, count: int, first: int = 1) -> None:
    """Run the parts in another order than theirs, and join them into the folder of the config."""
    numbers = [*range(1, count + 1)]
    random.Random(count).shuffle(numbers)
    for number in [0] * (first == 0) + numbers:
        part = f"{number}/{count}"
        if isinstance(config, PackConfig | SplitConfig):
            run(dataclasses.replace(config, part=part))
        else:
            run(dataclasses.replace(config, shards=dataclasses.replace(config.shards, part=part)))
    folders = tuple(Part(number, count).folder(config.out) for number in range(first, count + 1))
    join = JoinConfig(folders, config.out)
    run(settings_of_stage(join, command_of(join), type(config)))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("count", [1, 3, 9])
def test_parts_joined_are_the_bytes_of_one_run(tmp_path, monkeypatch, count: int):
    """Through notes, instructions, split and pack; with 9 parts, some have no shard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(split, "LOOKED_AT_ONCE", 5)
    source = reports(tmp_path / "reports.jsonl", 20)
    make_tokenizer(tmp_path / "tokenizer", 400)
    shards = ShardsConfig(3, 1)
    stages: list[tuple[Callable[[Any], Any], Any]] = [
        (notes.run, NotesConfig(source, Path("notes"), TYPES, shards=shards)),
        (instructions.run, InstructionsConfig(Path("notes"), Path("pairs"), 2, 1, shards=shards)),
        (split.run, SplitConfig(Path("pairs"), Path("sides"), 0.3)),
        (pack.run, PackConfig(Path("sides/train"), Path("packed"), Path("tokenizer"), 256, 4, workers=1)),
    ]
    for run, config in stages:
        run(config)
        once = files_of(config.out)
        in_parts(run, config, count)
        assert files_of(config.out) == once, config.out
    assert read_manifest(Path("notes"), "notes")["rejected"]["duplicate"] > 2


def answer(body, number):
    if is_reading(body):
        return reads(knows({}))(body)
    prompt = body["messages"][1]["content"]
    if prompt.startswith("Write one instruction"):
        return completion(f"How is the patient of request {body['seed']}?")
    return completion(body["messages"][1]["content"].split("Note:\n")[-1].split(". ")[0] + ".")


def test_parts_of_an_endpoint_share_examples_and_calibration_and_ask_no_more_than_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes.run(NotesConfig(reports(tmp_path / "reports.jsonl", 15), Path("notes")))
    with FakeEndpoint(answer) as endpoint:
        gate = GateConfig("keep", second_reader="reader", calibrate=4)
        config = InstructionsConfig(
            Path("notes"), Path("pairs"), 2, teacher=api(endpoint), pool_notes=3, gate=gate, shards=ShardsConfig(2)
        )
        instructions.run(config)
        asked = sorted(json.dumps(body, sort_keys=True) for body in endpoint.requests)
        once = files_of(config.out)
        endpoint.requests.clear()
        with pytest.raises(UserError, match=r"Run --part 0/3 first: it asks the questions that all parts show"):
            instructions.run(dataclasses.replace(config, shards=ShardsConfig(2, part="1/3")))
        in_parts(instructions.run, config, 3, first=0)
        assert files_of(config.out) == once
        again = sorted(json.dumps(body, sort_keys=True) for body in endpoint.requests)
        assert set(again) == set(asked)
        # Each part and each process of the pool has a ledger of its own, but no request belongs to two of them, but for
        # those of the pool's notes, which part 0 asks and their own part asks again.
        assert len(again) - len(asked) <= 2 * 3


def test_a_part_that_asks_nothing_needs_no_share_of_the_budget(tmp_path, monkeypatch):
    """As when a driver is started again that was killed after all parts had their shares."""
    monkeypatch.chdir(tmp_path)
    with FakeEndpoint(answer) as endpoint:
        teacher = api(endpoint, budget=BudgetConfig(1.0, 1.0, 0.0, 1.0))
        config = NotesConfig(reports(tmp_path / "reports.jsonl", 4), Path("notes"), teacher=teacher)

        def run(part: str) -> None:
            notes.run(dataclasses.replace(config, shards=ShardsConfig(2, part=part)))

        for number in (1, 2, 3):
            take_share(1.0, Part(number, 3), config.out)
        run("0/3")
        run("3/3")  # has no shard
        take_share(1.0, Part(1, 3), config.out)  # also what part 3 has left
        run("0/3")
        run("3/3")
        Path("notes.cost-shares.json").write_text('{"3": {"1": 1.0}}')
        with pytest.raises(UserError, match="other parts have spent it, or may"):
            run("2/3")
        assert not endpoint.requests


def test_what_the_examples_of_all_parts_cost_is_no_longer_there_for_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes.run(NotesConfig(reports(tmp_path / "reports.jsonl", 6), Path("notes")))
    with FakeEndpoint(lambda body, number: usage(f"What of request {number}?", 1000, 100)) as endpoint:
        teacher = api(endpoint, budget=BudgetConfig(1.0, 1.0, 0.0, 1.0))
        config = InstructionsConfig(
            Path("notes"), Path("pairs"), 2, teacher=teacher, pool_notes=3, shards=ShardsConfig(2, part="0/3")
        )
        for _ in range(2):
            instructions.run(config)
            ledger = Ledger(Path("pairs.part-0-of-3.ledger.sqlite"))
            spent = ledger.spent()
            ledger.close()
            assert spent > 0
            assert json.loads(Path("pairs.cost-shares.json").read_text()) == {"3": {"0": pytest.approx(spent)}}


@pytest.fixture
def parts(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    config = NotesConfig(reports(tmp_path / "reports.jsonl", 12), Path("notes"), shards=ShardsConfig(2, 1))
    for number in (1, 2, 3):
        notes.run(dataclasses.replace(config, shards=ShardsConfig(2, 1, part=f"{number}/3")))
    return [Part(number, 3).folder(Path("notes")) for number in (1, 2, 3)]


def refusal(arguments: list[Any]) -> str:
    with pytest.raises(UserError) as refused:
        dispatch("join", [*map(str, arguments), "--out", "notes"], debug=False)
    return str(refused.value)


def test_parts_that_do_not_belong_together_are_refused_in_one_line(parts):
    assert "part 2 of 3 is missing" in refusal([parts[0], parts[2]])
    assert "are both part 1" in refusal([parts[0], parts[0]])
    assert "name the folders of the parts" in refusal([])
    assert "no such folder" in refusal([*parts[:2], "notes.part-4-of-3"])
    source = str(Path.cwd() / "reports.jsonl")
    notes.run(NotesConfig(source, Path("other"), style=0.5, shards=ShardsConfig(2, 1, part="2/3")))
    assert "differ in the settings style" in refusal([parts[0], "other.part-2-of-3", parts[2]])
    with Path(source).open("a") as file:
        file.write('{"id": "new", "text": "A 30-year-old woman was admitted with fever. She was discharged."}\n')
    notes.run(NotesConfig(source, Path("later"), shards=ShardsConfig(2, 1, part="2/3")))
    assert "differ in inputs" in refusal([parts[0], "later.part-2-of-3", parts[2]])
    broken = next(parts[1].glob("shard-*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-7])
    assert "does not match the hash" in refusal(parts)
    assert not Path("notes").exists()


def test_a_part_that_is_asked_for_wrongly_is_refused(tmp_path):
    for text in ("4/3", "a/3", "1", "1/0", "-1/3"):
        with pytest.raises(UserError, match=r"must be I/N with I from 1 to N"):
            read_part(text)
    assert read_part("") is None
    teacher = TeacherConfig(teacher="openai", model="m", base_url="http://127.0.0.1:9/v1", estimate=True)
    source = reports(tmp_path / "reports.jsonl", 5)
    config = NotesConfig(source, tmp_path / "n", teacher=teacher, shards=ShardsConfig(part="1/2"))
    with pytest.raises(UserError, match="leave --part out"):
        notes.run(config)


def test_settings_come_back_from_json_as_they_were():
    for config in (
        NotesConfig("a", Path("b"), ("x", "y"), shards=ShardsConfig(3, part="1/2"), gate=GateConfig("keep", 0.1)),
        SplitConfig(Path("a"), Path("b"), against=(Path("c"), Path("d"))),
        PackConfig(Path("a"), Path("b"), Path("c"), prompt_template=None),
    ):
        assert from_json(json.loads(json.dumps(as_json(config))), type(config)) == config


@pytest.mark.parametrize("seed", range(30))
def test_shares_of_a_budget_never_exceed_it_together(tmp_path, seed: int):
    """Parts start, are killed, finish and start again in any order; each spends all of its share, or some of it."""
    rng, most = random.Random(seed), 10.0
    count = rng.randint(1, 6)
    out = tmp_path / "notes"
    spent = dict.fromkeys(range(count + 1), 0.0)
    if rng.random() < 0.5:  # examples that all parts show
        spent[0] = take_share(most, Part(0, count), out) * rng.random()
        settle_share(spent[0], Part(0, count), out)
    for _ in range(40):
        part = Part(rng.randint(1, count), count)
        share = take_share(most, part, out)
        assert share >= spent[part.number] - 1e-9, "what a part has spent stays its own"
        spent[part.number] += (share - spent[part.number]) * rng.choice([0.1, 0.6, 1.0])
        if rng.random() < 0.5:
            settle_share(spent[part.number], part, out)
        assert sum(spent.values()) <= most + 1e-9
    for number in range(1, count + 1):
        settle_share(spent[number], Part(number, count), out)
    assert take_share(most, Part(1, count), out) == pytest.approx(most - sum(spent.values()) + spent[1])


def test_parts_that_start_at_once_share_what_there_is(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(lambda number: take_share(8.0, Part(number, 8), tmp_path / "notes"), range(1, 9)))
    assert shares == pytest.approx([1.0] * 8)


def test_parts_of_many_machines_share_a_budget_in_a_bucket(tmp_path, monkeypatch):
    with running() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)

        def take(number: int) -> float:
            path = local_path(f"s3://{BUCKET}/data/notes")
            return take_share(8.0, Part(number, 8), path)

        monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "cache"))
        with ThreadPoolExecutor(8) as pool:
            assert [*pool.map(take, range(1, 9))] == [1.0] * 8
        settle_share(0.25, Part(2, 8), local_path(f"s3://{BUCKET}/data/notes"))
        monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / "other"))
        assert take(1) == 1.75
        assert store.names() == ["data/notes.cost-shares.json"]


def test_parts_on_machines_that_share_a_bucket_alone_make_what_one_run_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes.run(NotesConfig(reports(tmp_path / "reports.jsonl", 15), Path("notes")))
    with FakeEndpoint(answer) as endpoint, running() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)

        def run(machine: str, name: str, *flags: str) -> None:
            monkeypatch.setenv("ASCLEPIUS_CACHE", str(tmp_path / machine))
            dispatch(name, [*flags, "--out", f"s3://{BUCKET}/data/pairs"], False)

        for file in Path("notes").iterdir():
            store.write(f"data/notes/{file.name}", file.read_bytes())
        flags = [
            *("--source", f"s3://{BUCKET}/data/notes", "--teacher", "openai", "--model", "m", "--shard-records", "2"),
            *("--base-url", endpoint.url, "--per-note", "2", "--pool-notes", "3", "--max-cost", "9"),
            *("--price-input", "1", "--price-output", "1"),
        ]
        run("alone", "instructions", *flags)
        once = {name: store.read(name) for name in store.names("data/pairs/")}
        asked = len(endpoint.requests)
        for name in store.names("data/pairs"):
            store.delete(name)
        for number in range(4):
            run(f"machine {number}", "instructions", *flags, "--part", f"{number}/3")
        run("last", "join", f"s3://{BUCKET}/data/pairs.part-*-of-3")
        assert {name: store.read(name) for name in store.names("data/pairs/")} == once
        assert len(endpoint.requests) - 2 * asked <= 2 * 3
