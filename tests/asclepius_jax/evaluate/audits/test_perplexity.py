"""Perplexity by its protocol, against a plain computation with transformers."""

import math

import numpy as np
import pytest

from asclepius_jax.evaluate.audits.perplexity import Scored, Scorer, bits_a_byte, perplexity, perplexity_a_text
from asclepius_jax.evaluate.audits.realism import RealismConfig, Source, mauve_of, run, told_apart
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL, make_tokenizer, sentences, transformers_model


def source(texts: list[str], cases: str) -> Source:
    return Source("s", texts, [f"{cases}{number}" for number in range(len(texts))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer")
    transformers_model(path, MODEL)
    make_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences(12, 60, seed=3)


def plainly(folder, text: str, window: int, stride: int) -> tuple[float, int]:
    """Token after token: each from the window that is the first to reach it."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    nats = 0.0
    for place in range(1, len(ids)):
        start = 0
        while start + window <= place:
            start += stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        nats -= float(torch.log_softmax(logits, -1)[ids[place]])
    return nats, len(ids) - 1


@pytest.mark.parametrize(("window", "stride"), [(256, 128), (32, 16), (32, 31)])
def test_nats_are_those_of_a_plain_computation(folder, texts, window, stride):
    scorer = Scorer(folder, window, stride)
    longest = 0
    for text in texts[:4]:
        nats, tokens = plainly(folder, text, window, stride)
        scored = scorer.score(text)
        assert scored.tokens == tokens
        assert scored.nats == pytest.approx(nats, rel=1e-5)
        longest = max(longest, tokens)
    assert longest > 2 * 32, "some text must be longer than the short window"


def test_a_text_in_one_window_has_the_loss_of_transformers(folder, texts):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scorer = Scorer(folder, 256, 128)
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            theirs = math.exp(model(ids, labels=ids).loss)
        scored = scorer.score(text)
        assert math.exp(scored.nats / scored.tokens) == pytest.approx(theirs, rel=1e-4)


def test_a_corpus_is_the_sum_of_its_texts(folder, texts):
    scored = [Scorer(folder, 256, 128).score(text) for text in texts]
    nats, tokens, size = (sum(getattr(s, name) for s in scored) for name in ("nats", "tokens", "bytes"))
    cases = range(len(texts))
    assert perplexity(scored, cases).value == pytest.approx(math.exp(nats / tokens))
    assert bits_a_byte(scored, cases).value == pytest.approx(nats / math.log(2) / size)
    assert perplexity_a_text(scored, cases).n == len(texts)


def test_texts_of_one_case_count_as_one():
    scored = [Scored(100.0 + 10 * (k % 7), 50, 200) for k in range(40)]
    single = perplexity(scored, range(40))
    fourfold = perplexity([s for s in scored for _ in range(4)], [k for k in range(40) for _ in range(4)])
    assert (fourfold.n, fourfold.clusters) == (160, 40)
    assert (fourfold.low, fourfold.high) == (pytest.approx(single.low), pytest.approx(single.high))
    together = Source("s", [*sentences(60, 30, seed=1)] * 2, [f"a{k}" for k in range(60)] * 2)
    alone = source(sentences(60, 30, seed=2), "b")
    assert told_apart(together, alone, 0)["clusters"] == 120  # of 120 texts on both sides


def test_a_stride_that_skips_tokens_is_refused(folder):
    with pytest.raises(UserError, match=r"--stride 256: must be above 0 and below --window 256"):
        Scorer(folder, 256, 256)


def test_texts_of_one_kind_are_not_told_apart_and_those_of_two_are():
    one, same = source(sentences(60, 30, seed=1), "a"), source(sentences(60, 30, seed=2), "b")
    told = told_apart(one, same, 0)
    assert told["low"] < 0.5 < told["high"]
    other = source([f"{text} pt adm" for text in same.texts], "b")
    assert told_apart(other, one, 0)["value"] > 0.9
    assert told_apart(source(one.texts[:5], "a"), same, 0)["value"] is None


def test_a_note_and_its_report_are_never_parted_by_the_folds():
    """Each text stands on both sides, with a word of its own: whoever has seen its twin takes it for the other side."""
    texts = [f"{text} case{k} number{k}" for k, text in enumerate(sentences(60, 10, seed=1))]
    parted = told_apart(source(texts, "a"), source(texts, "b"), 0)
    together = told_apart(source(texts, "a"), source(texts, "a"), 0)
    assert parted["value"] < 0.2, "the fault that this guards against"
    assert together["low"] < 0.5 <= together["high"] + 0.05


def test_mauve_knows_one_distribution_from_two():
    pytest.importorskip("mauve", reason="mauve-text and faiss-cpu are not installed")
    random = np.random.default_rng(0)

    def features(cases: int, shift: float) -> dict[str, list[np.ndarray]]:
        return {f"c{k}": [random.normal(size=16) + shift for _ in range(2)] for k in range(cases)}

    real = features(60, 0)
    same, other = mauve_of(features(40, 0), real, 0), mauve_of(features(40, 2), real, 0)
    assert same["n"] == 60
    assert abs(same["value"] - same["ceiling"]["value"]) < 0.1
    assert same["low"] < same["value"] < same["high"]
    assert other["value"] < 0.2 < other["ceiling"]["low"]
    assert mauve_of(features(10, 0), real, 0)["value"] is None
    assert "MAUVE needs 50" in mauve_of(features(60, 0), features(20, 0), 0)["undefined"]


def test_the_table_names_its_sources_and_refuses_those_that_are_not_there(folder, texts, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": {text!r}}}\n'.replace("'", '"') for text in texts))
    out = tmp_path / "realism.json"
    made = run(RealismConfig(folder, (f"ours={tmp_path / 'a.jsonl'}",), out, window=64, stride=32))
    assert [row[:2] for row in made["table"]] == [["ours", "12"]]
    assert "windows of 64 tokens shifted by 32" in made["about"]
    longer = run(RealismConfig(folder, (f"ours={tmp_path / 'a.jsonl'}",), out, window=1024, stride=512))
    assert "windows of 256 tokens shifted by 128" in longer["about"], "no more than the model can see"
    with pytest.raises(UserError, match="the path must exist"):
        run(RealismConfig(folder, ("ours=nowhere",), out))
    (tmp_path / "b.csv").write_bytes(b"text\nFever.\nFi\xe8vre.\nCough.\n")
    assert run(RealismConfig(folder, (f"ours={tmp_path / 'b.csv'}",), out))["table"][0][1] == "2"
    assert "skipped 1 rows that cannot be read, the first at b.csv:3" in capsys.readouterr().err
    with pytest.raises(UserError, match="no text of type Radiology"):
        run(RealismConfig(folder, (f"ours={tmp_path / 'a.jsonl'}#Radiology",), out))
