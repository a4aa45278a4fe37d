"""What a model has kept: a small one that learned its notes by heart, and one that never saw them."""

import json
import shutil
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from asclepius_jax.evaluate.audits import canaries, forgetting, privacy
from asclepius_jax.evaluate.audits.canaries import FORMAT, CanariesConfig, read_canaries
from asclepius_jax.evaluate.audits.privacy import PrivacyConfig, area, auc, caught_at, found_below
from asclepius_jax.evaluate.records import Answer, Question
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest, verified_files
from data_prep.contract.records import Note, read_parquet
from tests.helpers.evaluation.made_evaluation import NOTE, question, write, write_answers
from tests.helpers.made_inputs import MODEL, make_tokenizer, note, sentences, transformers_model, write_records


def read_notes(folder) -> list[Note]:
    return [n for path in verified_files(folder, read_manifest(folder, "notes")) for n in read_parquet(path, Note)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Notes with canaries, held-out notes, and two models: fresh, and trained on the former until it knows them."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("privacy")
    texts = sentences(70, 16, seed=5)
    write_records(folder / "clean", [note(f"n{k}", text) for k, text in enumerate(texts[:40])])
    write_records(folder / "held_out", [note(f"h{k}", text) for k, text in enumerate(texts[40:])])
    canaries.run(CanariesConfig(folder / "clean", folder / "notes", repeats=(8,), each=2))
    for name in ("fresh", "trained"):
        transformers_model(folder / name, MODEL)
        make_tokenizer(folder / name)
    model = AutoModelForCausalLM.from_pretrained(folder / "fresh", dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(folder / "fresh")
    rows = [[1, *tokenizer(n.text, add_special_tokens=False)["input_ids"]] for n in read_notes(folder / "notes")]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more are slower for so small a model, and far slower on a busy machine
    for _ in range(120):
        loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder / "trained")
    return folder


def test_canaries_stand_in_as_many_notes_as_they_say_and_nothing_else_changes(made):
    before, after = read_notes(made / "clean"), read_notes(made / "notes")
    told = read_canaries(made / "notes")
    assert [c.repeats for c in told] == [8, 8]
    secrets = {name: c.secret for c in told for name in c.notes}
    assert len(secrets) == 16, "a note holds one canary at most"
    for old, new in zip(before, after, strict=True):
        assert new.text == (f"{old.text}\n{FORMAT.format(secrets[old.id])}" if old.id in secrets else old.text)


def test_more_canaries_than_notes_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"these canaries need 48 notes, but there are only 40"):
        canaries.run(CanariesConfig(made / "clean", tmp_path / "out", repeats=(16,), each=3))
    with pytest.raises(UserError, match="contains no canaries"):
        read_canaries(made / "clean")


def audit(made, model: str) -> dict:
    config = PrivacyConfig(
        made / model, made / "notes", made / f"{model}.json", made / "held_out", made / "notes", made / "fresh",
        tried=128, window=256,
    )  # fmt: skip
    return privacy.run(config)["figures"]


def test_a_model_that_learned_by_heart_is_found_and_one_that_never_saw_the_notes_is_not(made):
    kept, fresh = audit(made, "trained"), audit(made, "fresh")
    assert kept["canaries"]["8"]["exposure"]["value"] > 5
    assert fresh["canaries"]["8"]["exposure"]["value"] < 4
    assert kept["membership"]["loss"]["auc"]["value"] > 0.9
    assert kept["membership"]["loss"]["auc"]["low"] > 0.8
    assert fresh["membership"]["loss"]["auc"]["low"] < 0.5 < fresh["membership"]["loss"]["auc"]["high"]
    # The base model is the fresh one: what it shows is no memory, and what is left of the other one is.
    assert kept["membership"]["loss of the base model"] == fresh["membership"]["loss"]
    assert kept["membership"]["loss minus that of the base model"]["auc"]["value"] > 0.9
    assert fresh["membership"]["loss minus that of the base model"]["auc"]["value"] == 0.5


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    inside, outside = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    assert area(inside, outside) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)
    random = Random(0)
    noise = np.array([random.random() for _ in range(400)])
    patients = [f"p{k}" for k in range(200)]
    told = auc((noise[:200], noise[200:]), (patients, patients), 0)
    assert told.low < 0.5 < told.high
    # Eight notes of each patient tell no more than one.
    eightfold = auc((np.repeat(noise[:25], 8), np.repeat(noise[200:225], 8)), [np.repeat(patients[:25], 8)] * 2, 0)
    single = auc((noise[:25], noise[200:225]), [patients[:25]] * 2, 0)
    assert (eightfold.clusters, eightfold.n) == (50, 400)
    assert eightfold.high - eightfold.low == pytest.approx(single.high - single.low, rel=0.05)
    assert found_below(np.array([0.0, 0.1, 5.0]), np.linspace(1, 2, 100)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("outside", [99, 150, 250, 1000])
def test_the_threshold_of_the_attack_keeps_its_one_percent(outside: int):
    """The share of fresh notes of the same kind below it, over many draws. Quantiles gave 1.6 % of 100 notes."""
    random = np.random.default_rng(0)
    shares = [found_below(random.normal(size=400), random.normal(size=outside)) for _ in range(2000)]
    assert 0.003 < np.mean(shares) < 0.0105
    patients = [[f"{side}{k}" for k in range(count)] for side, count in (("i", 400), ("o", outside))]
    found = caught_at((random.normal(size=400) - 5, random.normal(size=outside)), patients, 0)
    assert found.value > 0.9
    assert found.low < found.value < found.high + 1e-9


def test_few_notes_give_no_threshold():
    found = caught_at((np.zeros(50), np.ones(98)), [range(50), range(98)], 0)
    assert found.value is None
    assert "98 held-out notes" in found.undefined


def test_runs_of_words_from_another_note_are_seen_and_from_the_own_one_are_not(made, tmp_path):
    other = " ".join(f"word{k}" for k in range(30))
    trained = write_records(tmp_path / "train", [note("n0", NOTE), note("n9", other)])
    questions = write(tmp_path / "questions", "questions", Question, [question(k, note_id="n0") for k in range(3)])
    texts = {"q0": NOTE, "q1": f"It says: {other[:150]}", "q2": "Short."}
    answers = write_answers(tmp_path / "answers", "m", texts)
    config = PrivacyConfig(made / "fresh", trained, tmp_path / "out.json", questions=questions, answers=(answers,))
    told = privacy.run(config)["figures"]["repeated"]["m"]
    assert (told["answers"]["count"], told["answers"]["n"]) == (1, 3)
    assert told["example"].startswith("word0 word1")


def test_runs_of_words_from_another_patients_report_are_seen_too(made, tmp_path):
    own, other = (" ".join(f"{name}{k}" for k in range(30)) for name in ("own", "other"))
    (tmp_path / "reports.jsonl").write_text(f'{{"id": "p1", "text": "{own}"}}\n{{"id": "p2", "text": "{other}"}}\n')
    trained = write_records(tmp_path / "train", [note("n9", NOTE)])
    asked = [question(k, note_id="n1", report_id="p1") for k in range(2)]
    questions = write(tmp_path / "questions", "questions", Question, asked)
    answers = write_answers(tmp_path / "answers", "m", {"q0": own, "q1": other})
    config = PrivacyConfig(made / "fresh", trained, tmp_path / "out.json", questions=questions, answers=(answers,))
    for reports, count in ((None, 0), (tmp_path / "reports.jsonl", 1)):
        told = privacy.run(replace(config, reports=reports))["figures"]["repeated"]["m"]
        assert told["answers"]["count"] == count
    assert told["example"].startswith("other0 other1")


def test_an_answer_that_there_is_not_repeats_nothing_and_is_missing(made, tmp_path):
    questions = write(tmp_path / "questions", "questions", Question, [question(k) for k in range(3)])
    answers = [Answer("q0", "m", "Short.", "stop"), Answer("q1", "m", "x", "error"), Answer("q2", "m", "x", "too_long")]
    folder = write(tmp_path / "answers", "answers", Answer, answers)
    config = PrivacyConfig(
        made / "fresh", made / "notes", tmp_path / "out.json", questions=questions, answers=(folder,)
    )
    told = privacy.run(config)["figures"]["repeated"]["m"]["answers"]
    assert (told["n"], told["missing"]) == (1, 2)


def test_notes_on_both_sides_are_left_out_of_the_attack(made, tmp_path):
    held_out = read_notes(made / "held_out")
    folder = write_records(tmp_path / "mixed", [*held_out, *read_notes(made / "notes")[:15]])
    config = PrivacyConfig(made / "fresh", made / "notes", tmp_path / "out.json", folder, window=256)
    told = privacy.run(config)["figures"]["membership"]
    assert (told["inside"], told["outside"], told["in_both"]) == (25, len(held_out), 15)
    with pytest.raises(
        UserError, match="0 notes in --trained-on and 0 in --held-out, without the 40 whose patient or text is in both"
    ):
        privacy.run(replace(config, held_out=made / "notes"))


def test_two_models_see_as_much_of_a_text_as_the_one_with_the_shorter_sight(made, tmp_path):
    shutil.copytree(made / "fresh", tmp_path / "shorter")
    settings = json.loads((tmp_path / "shorter/config.json").read_text())
    (tmp_path / "shorter/config.json").write_text(json.dumps({**settings, "max_position_embeddings": 32}))
    (tmp_path / "general.jsonl").write_text(
        "".join(json.dumps({"text": f"{text} {k}"}) + "\n" for k, text in enumerate(sentences(3, 60)))
    )
    config = forgetting.ForgettingConfig(
        made / "fresh", tmp_path / "shorter", tmp_path / "general.jsonl", tmp_path / "out.json"
    )
    assert forgetting.run(config)["figures"]["difference"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_model_that_was_trained_on_notes_has_forgotten_other_text(made, tmp_path):
    general = tmp_path / "general.jsonl"
    general.write_text(
        "".join(f'{{"text": "Sentence {k}: quartz vows vex jumping zebras by night."}}\n' for k in range(20))
    )
    told = forgetting.run(
        forgetting.ForgettingConfig(made / "fresh", made / "trained", general, tmp_path / "out.json", window=256)
    )["figures"]
    assert told["after"]["value"] > told["before"]["value"]
    assert told["difference"]["low"] > 0
    assert told["difference"]["value"] == pytest.approx(told["after"]["value"] - told["before"]["value"])
    assert told["p"] < 0.01
    same = forgetting.run(
        forgetting.ForgettingConfig(made / "fresh", made / "fresh", general, tmp_path / "out.json", window=256)
    )["figures"]
    assert same["difference"]["value"] == 0


def test_nothing_to_measure_is_refused(made, tmp_path):
    with pytest.raises(UserError, match="nothing to measure"):
        privacy.run(PrivacyConfig(made / "fresh", made / "notes", tmp_path / "out.json"))
