"""A second reader is asked about what the rules leave open, must quote the source, and stands in certificate and
manifest."""

import asyncio
import json
import threading
import time
from dataclasses import replace

import pytest

from data_prep.contract.errors import UserError
from data_prep.curate import audit
from data_prep.curate.audit import AuditConfig
from data_prep.faithfulness.certificate import check
from data_prep.faithfulness.places import place_of_quote
from data_prep.ingest import real_notes
from data_prep.ingest.real_notes import RealNotesConfig
from data_prep.synthesize import instructions, notes
from data_prep.synthesize.gate import GateConfig
from data_prep.synthesize.instructions import InstructionsConfig
from data_prep.synthesize.notes import NotesConfig
from data_prep.synthesize.second_reader import reader
from data_prep.synthesize.second_reader.reader import PROMPT, Sentence, open_sentences, passages, verdicts_in
from data_prep.teachers.base import Request, TeacherConfig
from data_prep.teachers.endpoint.budget import BudgetConfig
from data_prep.teachers.endpoint.ledger import Ledger
from data_prep.teachers.endpoint.meter import Meter
from data_prep.teachers.factory import make_teacher
from tests.helpers.endpoints.batch_runs import config, text_of
from tests.helpers.endpoints.fake_batches import FakeBatches, good
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion, failure
from tests.helpers.endpoints.second_readers import asked, guesses, is_reading, knows, readings, reads, reply_of, talks
from tests.helpers.text_stages import api, read_examples, read_notes, usage, write_reports

REPORT = (
    "A 45-year-old man was admitted with fever for 2 weeks. He had no chest pain. CT showed a mass in the left lung. "
    "Aspirin 100 mg was given twice daily. His wife said that he rarely left the house. He was discharged on day 5."
)
COPIED = "CT showed a mass in the left lung."  # proved: word for word
NAMED = "No chest pain."  # proved: every word is in a statement that the rules support
DOSE = "Aspirin 1000 mg was given twice daily."  # refuted by the rules
TRUE = "According to his wife, he hardly ever went out."
FALSE = "His wife was worried about the bills."
OPPOSED = "His wife said that he loved to roam the hills."
TRUTHS = {
    TRUE: ("supported", "he rarely left ... house"),
    FALSE: ("not stated", ""),
    OPPOSED: ("contradicted", "He rarely left the house"),
}
REST = (
    "A 45-year-old man was admitted with fever for 2 weeks. He was discharged on day 5. Aspirin 100 mg was given twice "
    "daily."
)


def run_notes(tmp_path, note, read, on_unsupported="keep", repaired="", **gate):
    """One report through `notes`; `read` answers the second reader's requests, the others get the note."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r1", "text": REPORT}) + "\n")

    def answer(body, n):
        if is_reading(body):
            return read(body)
        return completion(repaired if "Not supported by the source" in body["messages"][1]["content"] else note)

    gate = GateConfig(on_unsupported, **{"second_reader": "r", "calibrate": 0, **gate})
    with FakeEndpoint(answer) as endpoint:
        manifest = notes.run(NotesConfig(str(tmp_path / "a.jsonl"), tmp_path / "out", teacher=api(endpoint), gate=gate))
    made, rejects = read_notes(tmp_path / "out")
    return made, rejects, manifest["faithfulness"], endpoint


def counts_of(reading) -> tuple[int, ...]:
    return reading.supported, reading.contradicted, reading.not_stated, reading.unread, reading.not_asked


# ---------------------------------------------------------------- what is asked


def test_what_the_rules_have_proved_or_refuted_is_never_asked(tmp_path):
    note = f"HOSPITAL COURSE:\n{COPIED} {NAMED} {DOSE} {TRUE} {FALSE}"
    (made,), _, _, endpoint = run_notes(tmp_path, note, reads(knows(TRUTHS)))
    assert readings(endpoint) == [[TRUE, FALSE]]
    assert counts_of(made.certificate.reader) == (1, 0, 1, 0, 3)
    (request,) = [body for body in endpoint.requests if is_reading(body)]
    assert (request["model"], request["temperature"]) == ("r", 0)
    assert asked(request)[0] == REPORT


@pytest.mark.parametrize(
    ("sentence", "is_open"),
    [
        (COPIED, False),
        (f"2. {COPIED}", False),
        (NAMED, False),
        (DOSE, False),
        ("Aspirin 1000 mg delighted him.", False),
        ("Course:", False),
        (TRUE, True),
        # The rules support fever and its duration and know nothing of what it did.
        ("Fever for 2 weeks embarrassed him.", True),
        # A part of a sentence may leave out what limits it.
        ("He was admitted with fever.", True),
    ],
)
def test_a_sentence_is_open_unless_the_rules_have_read_every_word(sentence, is_open):
    left_open, _ = open_sentences(sentence, "note", REPORT, check(sentence, REPORT))
    assert bool(left_open) == is_open


def test_one_word_is_an_answer_and_no_heading():
    assert [each.text for each in open_sentences("Yes", "answer", REPORT, [])[0]] == ["Yes"]
    assert open_sentences("Hospital Course\n\nDISCHARGE SUMMARY\n\n## Before\n\nThen:", "note", REPORT, []) == ([], 0)
    assert [each.text for each in open_sentences("Zanubrutinib\n\nOLD AGE", "note", REPORT, [])[0]] == [
        "Zanubrutinib",
        "OLD AGE",
    ]


def test_of_a_long_source_only_what_could_support_the_sentences_is_sent():
    filler = [f"On visit {k} the neighbour number {k} brought a cake with {k} candles." for k in range(400)]
    source = " ".join([*filler[:200], "His wife said that he rarely left the house.", *filler[200:]])
    (sentence,) = open_sentences(OPPOSED, "note", source, [])[0]
    sent = passages(source, [sentence])
    assert "His wife said that he rarely left the house." in sent
    assert filler[199] in sent, "with its neighbours"
    assert sent.startswith("[...]\n")
    assert len(sent.split()) < len(source.split()) / 10


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("quote", "words"),
    [
        ("He RARELY left, the house", "he rarely left the house"),
        ("He was admitted", ""),
        ("no chest pain ... left lung", "no chest pain. CT showed a mass in the left lung"),
        ("left lung … no chest pain", ""),
        ("", ""),
        ("...", ""),
    ],
)
def test_a_quotation_has_a_place_in_the_source(quote, words):
    place = place_of_quote(quote, REPORT)
    assert (REPORT[slice(*place)] if place else "") == words


def test_letters_that_grow_in_lower_case_do_not_shift_a_place():
    assert place_of_quote("was fine", "İİ İzmir was fine") == (9, 17)


SENTENCES = [Sentence(TRUE), Sentence("The dose is not stated in the report.")]


@pytest.mark.parametrize(
    ("verdicts", "read"),
    [
        ([("supported", "he rarely left the house"), ("supported", "")], ["supported", "supported"]),
        ([("Contradicted.", "no chest pain"), ("not stated", "nowhere said")], ["contradicted", "not stated"]),
        ([("supported", "he never left the house"), ("contradicted", "")], ["", ""]),
        ([("supported", "the"), ("perhaps", "no chest pain")], ["", ""]),
    ],
)
def test_a_verdict_counts_with_a_quotation_from_the_source(verdicts, read):
    found = verdicts_in(reply_of(verdicts), SENTENCES, REPORT)
    assert [found[each.text].verdict if each.text in found else "" for each in SENTENCES] == read


def test_two_verdicts_on_one_sentence_are_none():
    twice = {"number": 1, "verdict": "supported", "quote": "no chest pain"}
    assert verdicts_in(json.dumps({"sentences": [twice, twice, 3, {"number": 9}]}), SENTENCES, REPORT) == {}


def test_a_false_quotation_is_asked_about_once_more_alone(tmp_path):
    def read(body):
        _, sentences = asked(body)
        truths = [TRUTHS[sentence] for sentence in sentences]
        return completion(reply_of([truths[0], ("contradicted", "he went out")] if len(truths) > 1 else truths))

    (made,), _, _, endpoint = run_notes(tmp_path, f"{COPIED} {TRUE} {OPPOSED} {REST}", read)
    assert readings(endpoint) == [[TRUE, OPPOSED], [OPPOSED]]
    assert counts_of(made.certificate.reader)[:4] == (1, 1, 0, 0)
    first, second = json.loads(made.certificate.reader.details)
    assert made.text[first["start"] : first["end"]] == TRUE
    assert REPORT[second["quote_start"] : second["quote_end"]] == "he rarely left the house"
    assert (second["verdict"], second["quote"]) == TRUTHS[OPPOSED]


# ---------------------------------------------------------------- what follows


NOTE = f"{REST} {COPIED} {TRUE} {OPPOSED}"


def test_a_refused_sentence_goes_back_to_the_teacher_with_the_reason(tmp_path):
    better = NOTE.replace(OPPOSED, "His wife told the team that he seldom left the house.")
    known = knows({**TRUTHS, "His wife told the team that he seldom left the house.": ("supported", "rarely left")})
    (made,), _, facts, endpoint = run_notes(tmp_path, NOTE, reads(known), "repair", better)
    assert made.text == better
    (repair,) = [b for b in endpoint.requests if "Not supported by the source" in b["messages"][1]["content"]]
    line = f"- contradicted (the source says “He rarely left the house”): {OPPOSED}"
    assert line in repair["messages"][1]["content"]
    again = readings(endpoint)[1]
    assert again == ["His wife told the team that he seldom left the house."], "the others are known"
    assert facts["second_reader"]["contradicted"] == 0


def test_a_refused_sentence_is_removed_or_its_text_rejected_or_kept(tmp_path):
    (made,), _, facts, endpoint = run_notes(tmp_path / "1", NOTE, reads(knows(TRUTHS)), "remove")
    assert made.text == NOTE.replace(f" {OPPOSED}", "")
    assert len(readings(endpoint)) == 1
    assert facts["second_reader"]["supported"] == made.certificate.reader.supported > 0
    made, (reject,), _, _ = run_notes(tmp_path / "2", NOTE, reads(knows(TRUTHS)), "reject")
    assert not made
    assert f"contradicted (the source says “He rarely left the house”): {OPPOSED}" in reject.detail
    (made,), _, facts, _ = run_notes(tmp_path / "3", NOTE, reads(knows(TRUTHS)), "keep")
    assert made.text == NOTE
    assert facts["second_reader"]["contradicted"] == 1


def test_certificate_and_manifest_tell_the_reader_that_knows_from_one_that_talks(tmp_path):
    """What cannot be read is counted: it removes no sentence and supports none."""
    (made,), _, facts, endpoint = run_notes(tmp_path, NOTE, talks, "remove")
    assert made.text == NOTE
    open_ones = len(readings(endpoint)[0])
    assert counts_of(made.certificate.reader)[:4] == (0, 0, 0, open_ones)
    told = facts["second_reader"]
    assert (told["model"], told["prompt"], told["unread"], told["supported"]) == ("r", PROMPT.hash, open_ones, 0)
    assert len(readings(endpoint)) == 2, "garbage is asked for once more"


def test_an_audit_compares_what_the_rules_say_alone(tmp_path, capsys):
    run_notes(tmp_path, NOTE, reads(knows(TRUTHS)))
    assert audit.run(AuditConfig(tmp_path / "out"))["texts"] == 1
    assert "differs" not in capsys.readouterr().out


def test_an_answer_is_read_with_its_question(tmp_path):
    run_notes(tmp_path, REPORT, talks, second_reader="")

    def answer(body, n):
        if is_reading(body):
            assert "The sentences answer this instruction:\nDid he often go out?\n\n" in body["messages"][1]["content"]
            return reads(knows({"No, hardly ever.": ("supported", "rarely left the house")}))(body)
        is_question = body["messages"][1]["content"].startswith("Write one instruction")
        return completion("Did he often go out?" if is_question else "No, hardly ever.")

    with FakeEndpoint(answer) as endpoint:
        gate = GateConfig(second_reader="r", calibrate=0)
        instructions.run(
            InstructionsConfig(tmp_path / "out", tmp_path / "pairs", teacher=api(endpoint), pool_notes=0, gate=gate)
        )
    (example,), _ = read_examples(tmp_path / "pairs")
    assert counts_of(example.certificate.reader) == (1, 0, 0, 0, 0)


# ---------------------------------------------------------------- endpoints, money, privacy


def test_a_reader_elsewhere_has_its_own_key_and_prices_and_the_same_account(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "teacher-key")
    monkeypatch.setenv("SECOND_READER_API_KEY", "reader-key")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r1", "text": REPORT}) + "\n")
    text = reply_of([TRUTHS[TRUE], TRUTHS[OPPOSED]])
    with (
        FakeEndpoint(lambda body, n: usage(f"{COPIED} {TRUE} {OPPOSED}", 1000, 100)) as teacher,
        FakeEndpoint(lambda body, n: usage(text, 1000, 100)) as second,
    ):
        gate = GateConfig("keep", second_reader="r", second_reader_url=second.url, calibrate=0)
        gate = replace(gate, second_reader_price_input=10, second_reader_price_output=20)
        priced = BudgetConfig(price_input=1, price_output=2, max_cost=1)
        config = NotesConfig(
            str(tmp_path / "a.jsonl"), tmp_path / "out", teacher=api(teacher, budget=priced), gate=gate
        )
        notes.run(config)
        assert (len(teacher.requests), len(second.requests)) == (1, 1)
        assert (teacher.keys, second.keys) == (["Bearer teacher-key"], ["Bearer reader-key"])
        ledger = Ledger(tmp_path / "out.ledger.sqlite")
        assert ledger.spent() == pytest.approx((1000 * 1 + 100 * 2 + 1000 * 10 + 100 * 20) / 1e6)
        ledger.close()
        notes.run(config)
        assert len(teacher.requests) + len(second.requests) == 2, "a rerun finds both in the ledger"
        poor = replace(
            config, out=tmp_path / "poor", teacher=replace(config.teacher, budget=replace(priced, max_cost=0.05))
        )
        with pytest.raises(UserError, match=r"--max-cost 0\.05: 0\.0012 USD are spent"):
            notes.run(poor)
        assert len(second.requests) == 1, "what the reader could cost is more than is left"


def test_beside_batches_the_reader_is_asked_at_once(tmp_path):
    source = write_reports(tmp_path / "a.jsonl", 6)
    read = reads(knows({}))
    with (
        FakeBatches(lambda body, n: good(body, text_of(body))) as batches,
        FakeEndpoint(lambda body, n: read(body)) as second,
    ):
        gate = GateConfig("keep", second_reader="r", second_reader_url=second.url, calibrate=2)
        stage = replace(config(batches, source, tmp_path / "out"), gate=gate)
        told = notes.run(stage)["faithfulness"]["second_reader"]
        assert told["calibration"]["reader"]["recall"]["count"] == 2
        assert told["not_stated"] == 60, "ten times the same sentence in each note"
        before = len(second.requests)
        notes.run(stage)
        assert (batches.line_counts(), len(second.requests)) == ([6], before), "a rerun asks for nothing"


def test_the_end_waits_for_the_replies_of_both(tmp_path):
    """They are paid for, so the ledger has them before it closes."""
    arrived = threading.Barrier(3)

    def slowly(seconds):
        def answer(body, n):
            arrived.wait(10)
            time.sleep(seconds)
            return completion(f"Reply {n}.")

        return answer

    async def go(teacher):
        requests = [Request(kind, "r", ({"role": "user", "content": kind},)) for kind in ("note", "reading")]
        asking = [asyncio.ensure_future(teacher.ask(request)) for request in requests]
        await asyncio.to_thread(arrived.wait, 10)
        for task in asking:
            task.cancel()
        await teacher.close()

    with FakeEndpoint(slowly(0.01)) as one, FakeEndpoint(slowly(0.5)) as other:
        asyncio.run(go(make_teacher(api(one), tmp_path / "ledger.sqlite", Meter(), api(other))))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.counts() == {"done": 2}
    ledger.close()


def test_an_estimate_counts_the_reader_and_its_calibration(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r1", "text": REPORT}) + "\n")
    teacher = TeacherConfig("openai", "http://localhost:1/v1", "m", estimate=True)
    teacher = replace(teacher, budget=BudgetConfig(price_input=1, price_output=1))
    gate = GateConfig(second_reader="r", second_reader_price_input=1000, calibrate=1)
    config = NotesConfig(str(tmp_path / "a.jsonl"), tmp_path / "out", teacher=teacher, gate=gate)
    figures = notes.run(config)
    assert figures["requests"] == 3
    assert figures["cost"] > 100 * notes.run(replace(config, gate=GateConfig()))["cost"]
    assert "2 requests of kind reading" in capsys.readouterr().out


def test_a_real_note_is_sent_to_no_reader_that_is_not_allowed(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r1", "text": REPORT}) + "\n")
    real_notes.run(RealNotesConfig(tmp_path / "a.jsonl", tmp_path / "real"))
    with FakeEndpoint(lambda body, n: talks(body)) as endpoint:
        gate = GateConfig(second_reader="r", second_reader_url=endpoint.url)
        with pytest.raises(UserError, match="is a real note and must not leave the institution"):
            instructions.run(InstructionsConfig(tmp_path / "real", tmp_path / "out", gate=gate))
        assert not endpoint.requests


def test_wrong_settings_of_the_reader_are_named(tmp_path):
    def refused(gate, **teacher):
        with pytest.raises(UserError) as told:
            notes.run(NotesConfig("a.jsonl", tmp_path / "out", teacher=TeacherConfig(**teacher), gate=gate))
        return str(told.value)

    assert "needs --second-reader MODEL" in refused(GateConfig(second_reader_url="http://localhost/v1"))
    assert "--second-reader-url ftp://x" in refused(GateConfig(second_reader="r", second_reader_url="ftp://x"))
    assert "--calibrate -1" in refused(GateConfig(calibrate=-1))
    assert "--price-input" in refused(GateConfig(second_reader="r", second_reader_url="https://example.org/v1"))
    assert not list(tmp_path.iterdir())


def test_the_reader_that_is_refused_is_named_by_its_own_flags(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "r1", "text": REPORT}) + "\n")
    with FakeEndpoint(lambda body, n: failure(404)) as endpoint:
        gate = GateConfig(second_reader="r", second_reader_url=endpoint.url, calibrate=1)
        with pytest.raises(UserError, match="check --second-reader-url and --second-reader"):
            notes.run(NotesConfig(str(tmp_path / "a.jsonl"), tmp_path / "out", gate=gate))


def test_guesses_are_made_by_chance_and_quote_the_source():
    """What the tests of the calibration rely on."""
    verdicts = {guesses(REPORT, f"sentence {k}")[0] for k in range(30)}
    assert verdicts == set(reader.VERDICTS)
