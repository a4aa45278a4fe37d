"""Every model is asked in its own form, says what it says alone, and is not asked twice."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from asclepius_jax.checkpoint.read import find_step, read_meta
from asclepius_jax.convert.export_hf import texts_of
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.evaluate.answers import answers, models
from asclepius_jax.evaluate.answers.answers import AnswersConfig, found_folders, run
from asclepius_jax.evaluate.answers.models import load_model
from asclepius_jax.evaluate.answers.specs import Decoding, ModelSpec, parse_spec
from asclepius_jax.evaluate.answers.transformer import Transformer
from asclepius_jax.evaluate.judge import judge
from asclepius_jax.evaluate.judge.judge import JudgeConfig
from asclepius_jax.evaluate.questions.prompt_formats import by_chat_template
from asclepius_jax.evaluate.records import Judgement, Question, read_records
from data_prep.contract.errors import UserError
from data_prep.contract.manifests import read_manifest
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.tokenizer import JsonTokenizer, encode_prompt
from data_prep.execution.parts import JoinConfig, command_of, settings_of_stage
from data_prep.execution.shards import ShardsConfig
from data_prep.teachers.base import TeacherConfig
from tests.data_prep.execution.test_parts import files_of
from tests.helpers.endpoints.fake_endpoint import FakeEndpoint, completion
from tests.helpers.evaluation.made_evaluation import (
    all_answers,
    answered,
    content,
    judge_at,
    question,
    write,
    write_questions,
)
from tests.helpers.made_inputs import MODEL, make_tokenizer, sentences, transformers_model

transformers = pytest.importorskip("transformers")

GREEDY = Decoding(max_new_tokens=12, batch=3, prompt_format="asclepius")
LONG = 1024
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role == 'user' %}[user]{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model in the layout of Hugging Face, with logits far enough apart to have one greatest."""
    path = tmp_path_factory.mktemp("models") / "hf"
    transformers_model(path, replace(MODEL, max_length=LONG), noise=0.2)
    return make_tokenizer(path)


@pytest.fixture(scope="module")
def checkpoint(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint") / "run"
    run_import(ImportConfig(folder, out))
    return out


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    """Of lengths that differ, so that a batch is padded."""
    texts = sentences(5, 40, seed=1)
    return [question(n, note=" ".join(texts[: n + 1]), instruction=f"fever {n}") for n in range(5)]


@pytest.fixture(scope="module")
def alone(folder, asked) -> list[tuple[str, str]]:
    model = Transformer(ModelSpec("m", "hf", str(folder)), GREEDY)
    return [model.answer([each])[0] for each in asked]


# ---------------------------------------------------------------- what local models say


def test_a_question_is_answered_in_a_batch_as_it_is_alone(folder, asked, alone):
    assert Transformer(ModelSpec("m", "hf", str(folder)), GREEDY).answer(asked) == alone
    assert len({text for text, _ in alone}) == len(asked), "answers that do not differ show nothing"


def test_our_engine_says_what_transformers_says(checkpoint, folder, asked, alone):
    for kind, place in (("checkpoint", checkpoint), ("hf", folder)):
        model = load_model(ModelSpec("m", kind, str(place)), GREEDY)
        assert not isinstance(model, Transformer)
        assert all_answers(model, asked) == alone


def test_a_family_that_our_decoder_lacks_runs_in_transformers(tmp_path, folder, asked, capsys):
    shutil.copytree(folder, tmp_path / "hf")
    config = transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "hf")
    model = load_model(ModelSpec("m", "hf", str(tmp_path / "hf")), GREEDY)
    assert isinstance(model, Transformer)
    assert len(all_answers(model, asked)) == len(asked)
    assert "m runs in transformers: " in capsys.readouterr().err


def test_an_answer_ends_where_the_model_ends_it(folder, asked, alone):
    model = Transformer(ModelSpec("m", "hf", str(folder)), GREEDY)
    made, generate = [], model.model.generate
    model.model.generate = lambda **more: made.append(generate(**more)) or made[-1]
    model.answer(asked)
    new = made[0][0, -GREEDY.max_new_tokens :].tolist()
    model.model.generation_config.eos_token_id = [2, new[4]]
    end = new.index(new[4])
    text = model.prompts.tokenizer.decode(new[:end], skip_special_tokens=True).strip()
    assert model.answer(asked)[0] == (text, "stop")
    assert alone[0][1] == "length"


def test_a_folder_decodes_greedily_whatever_its_own_settings_prefer(folder, asked, alone, tmp_path):
    shutil.copytree(folder, tmp_path / "hf")
    settings = transformers.GenerationConfig(
        repetition_penalty=5.0, do_sample=True, top_k=3, eos_token_id=2, bos_token_id=1, no_repeat_ngram_size=1
    )
    settings.save_pretrained(tmp_path / "hf")
    assert Transformer(ModelSpec("m", "hf", str(tmp_path / "hf")), GREEDY).answer(asked) == alone


def test_sampling_is_from_all_tokens(folder):
    settings = Transformer(ModelSpec("m", "hf", str(folder)), replace(GREEDY, temperature=0.7))._settings()
    assert (settings.do_sample, settings.temperature, settings.top_k, settings.top_p) == (True, 0.7, 0, 1.0)


@pytest.mark.parametrize(("kind", "place"), [("checkpoint", "checkpoint"), ("hf", "folder")])
def test_a_sampled_answer_depends_on_its_question_and_not_on_its_batch(request, kind: str, place: str, asked):
    model = load_model(ModelSpec("m", kind, str(request.getfixturevalue(place))), replace(GREEDY, temperature=1.0))
    first, second = all_answers(model, asked[:2])
    assert all_answers(model, asked[1::-1]) == [second, first]
    # Two questions of one text, each at the first place of its batch.
    other = all_answers(model, [replace(asked[0], id="other"), asked[1]])
    assert (other[0] != first, other[1]) == (True, second)


@pytest.mark.parametrize("temperature", [-1.0, 1e-50])
def test_a_temperature_that_no_answer_can_be_sampled_at_is_refused(tmp_path, temperature: float):
    decoding = Decoding(temperature=temperature)
    with pytest.raises(UserError, match=rf"--decoding.temperature is {temperature}: it must be 0"):
        run(AnswersConfig(tmp_path, ("a=reference:",), tmp_path / "out", decoding))


def test_random_weights_are_the_same_each_time_and_not_those_of_the_folder(folder, asked, alone):
    spec = ModelSpec("m", "untrained", str(folder))
    first = Transformer(spec, GREEDY).answer(asked[:1])
    assert Transformer(spec, GREEDY).answer(asked[:1]) == first != alone[:1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "llama", "vocab_size": "x"}'),
        ("config.json", '{"model_type": "llama", "rope_scaling": {"rope_type": "longrope"}}'),
        ("config.json", "[]"),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("tokenizer.json", "{}"),
        ("model.safetensors", "x" * 100),
    ],
)
def test_a_folder_that_transformers_cannot_load_is_refused_in_one_line(folder, tmp_path, name: str, content: str):
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf" / name).write_text(content)
    with pytest.raises(UserError, match="transformers cannot load") as refused:
        Transformer(ModelSpec("m", "hf", str(tmp_path / "hf")), GREEDY)
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- prompts


def test_the_chat_template_of_our_folder_is_the_prompt_of_training_with_one_beginning(folder, checkpoint, tmp_path):
    tokenizer = JsonTokenizer(folder)
    meta = replace(read_meta(find_step(checkpoint)[1]), phase="instruct", prompt_template=TRAINING_TEMPLATE)
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf/chat_template.jinja").write_text(texts_of(meta, tokenizer, "float32")["chat_template.jinja"])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    note, instruction = "  Fever {{ x }} for 3 days.\n\n- cough\n", " How long? "
    prompt = by_chat_template(theirs, note, instruction)
    rendered = render_prompt(TRAINING_TEMPLATE, note, instruction)
    assert prompt == "<s>" + rendered
    seen: list[list[int]] = []
    model = Transformer(ModelSpec("m", "hf", str(tmp_path / "hf")), replace(GREEDY, prompt_format=""))
    assert model.prompt_format == "chat"
    model.model.generate = lambda input_ids, **more: seen.append(input_ids[0].tolist()) or input_ids
    model.answer([question(0, note=note, instruction=instruction)])
    assert seen == [encode_prompt(tokenizer, rendered)]
    assert seen[0].count(1) == 1


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_template_without_a_system_message_gets_one_user_message_with_the_note(folder, template):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    assert by_chat_template(tokenizer, " Fever. ", "How long?") == "[user]Fever.\n\nHow long?"


def test_a_template_that_has_no_place_for_a_note_is_refused(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "nothing"
    with pytest.raises(UserError, match="it omits the note"):
        by_chat_template(tokenizer, "Fever.", "How long?")


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("mode", ["pointwise", "listwise"])
def test_what_does_not_fit_is_counted_and_never_answered_or_scored(folder, checkpoint, tmp_path, mode):
    made = [question(0, note="fever"), question(1, note="fever " * LONG), question(2, note="cough")]
    questions = write(tmp_path / "questions", "questions", Question, made)
    specs = (f"hf=hf:{folder}", f"run=checkpoint:{checkpoint}")
    run(AnswersConfig(questions, specs, tmp_path / "answers", GREEDY))
    for name in ("hf", "run"):
        assert read_manifest(tmp_path / "answers" / name, "answers")["finish_reasons"] == {"length": 2, "too_long": 1}
        assert answered(tmp_path / "answers" / name)["q1"].finish_reason == "too_long"

    def reply(body, number):
        assert "prompt tokens" not in body["messages"][1]["content"], "the reason is no answer"
        good = '{"evidence": [], "incorrect": "no", "omitted": "nothing", "answerable": "yes", "recognised": "yes"'
        return completion(good + ', "A": 4, "B": 4}')

    with FakeEndpoint(reply) as endpoint:
        config = judge.JudgeConfig(
            questions, (tmp_path / "answers",), tmp_path / "judged", "j", mode=mode, teacher=judge_at(endpoint)
        )
        judge.run(config)
    judged = list(read_records(tmp_path / "judged", "judgements", Judgement))
    assert {(j.question_id, j.model): j.score for j in judged} == {
        (f"q{n}", name): 0 if n == 1 else 4 for n in range(3) for name in ("hf", "run")
    }
    assert all("no answer" in j.problem for j in judged if not j.score)


# ---------------------------------------------------------------- a run that is killed


class Fake:
    """A local model that takes down what it is asked and dies when it is told to."""

    prompt_format = "fake"

    def __init__(self, dies_at: int = 10**9):
        self.asked: list[str] = []
        self.dies_at = dies_at

    def answers(self, questions):
        for place, asked in enumerate(questions):
            if len(self.asked) == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(asked.id)
            yield place, (f"Fièvre\u2028of {asked.id}", "stop")


@pytest.fixture
def asking(tmp_path, folder, monkeypatch):
    """Ask a fake model; it is returned."""

    def ask(out: str = "answers", dies_at: int = 10**9, count: int = 8, **decoding) -> Fake:
        fake = Fake(dies_at)
        monkeypatch.setattr(answers, "load_model", lambda spec, config: fake)
        questions = tmp_path / f"questions {count}"
        if not questions.exists():
            write_questions(questions, count)
        config = AnswersConfig(questions, (f"m=hf:{folder}",), tmp_path / out, Decoding(batch=2, **decoding))
        if dies_at < count:
            with pytest.raises(KeyboardInterrupt):
                run(config)
        else:
            run(config)
        return fake

    return ask


@pytest.mark.parametrize(("cut", "lost"), [(0, 0), (1, 0), (20, 1), (250, 2)])
def test_a_run_that_was_killed_goes_on_and_writes_the_same_folder(asking, tmp_path, cut, lost):
    before = asking(dies_at=5).asked
    assert len(before) == 5
    assert not (tmp_path / "answers/m").exists()
    partial = tmp_path / "answers/m.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[: -cut or None])
    after = asking().asked
    assert len(after) == 3 + lost
    assert set(before) | set(after) == {f"q{n}" for n in range(8)}
    assert not partial.exists()
    asking("undisturbed")
    assert content(tmp_path / "answers/m") == content(tmp_path / "undisturbed/m")
    assert answered(tmp_path / "answers/m")["q3"].text == "Fièvre\u2028of q3"
    assert not asking().asked, "a finished folder is left as it is"


def test_a_line_that_was_cut_within_a_character_is_asked_again(asking, tmp_path):
    asking(dies_at=5)
    partial = tmp_path / "answers/m.partial.jsonl"
    data = partial.read_bytes()
    partial.write_bytes(data[: data.rindex("è".encode()) + 1])
    assert len(asking().asked) == 4


def test_what_was_kept_is_of_no_use_to_other_settings_questions_or_weights(asking, folder, tmp_path, monkeypatch):
    asking(dies_at=5)
    assert len(asking(dies_at=5, max_new_tokens=7).asked) == 5
    assert len(asking(max_new_tokens=9).asked) == 8
    assert len(asking(count=10, max_new_tokens=9).asked) == 10
    assert not asking(count=10, max_new_tokens=9).asked
    monkeypatch.setattr(answers, "content_of", lambda spec: "of weights that were trained further")
    assert len(asking(count=10, max_new_tokens=9).asked) == 10


def test_weights_at_the_same_place_are_told_apart(folder, checkpoint, tmp_path):
    shutil.copytree(folder, tmp_path / "hf")
    spec = ModelSpec("m", "hf", str(tmp_path / "hf"))
    before = models.content_of(spec)
    assert before == models.content_of(replace(spec, place=str(folder)))
    untrained = models.content_of(replace(spec, kind="untrained"))
    transformers_model(tmp_path / "hf", replace(MODEL, max_length=LONG), noise=0.21)
    assert models.content_of(spec) != before
    assert models.content_of(replace(spec, kind="untrained")) == untrained
    assert models.content_of(ModelSpec("m", "checkpoint", str(checkpoint)))


def test_what_a_kill_left_of_a_folder_that_was_replaced_is_not_read(asking, tmp_path):
    asking()
    shutil.copytree(tmp_path / "answers/m", tmp_path / "answers/.m.old")
    assert found_folders([tmp_path / "answers"]) == [tmp_path / "answers/m"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no finished folder of answers in"):
        found_folders([tmp_path / "none"])


# ---------------------------------------------------------------- what is refused


def test_answers_to_other_questions_of_the_same_ids_are_refused(tmp_path):
    questions = write_questions(tmp_path / "questions")
    run(AnswersConfig(questions, ("known=reference:",), tmp_path / "out"))
    assert len(answers.read_answers([tmp_path / "out"], questions)["known"]) == 8
    made = [question(n, instruction="Which side?") for n in range(8)]
    other = write(tmp_path / "other", "questions", Question, made)
    with pytest.raises(UserError, match=r"known answers different questions with the same ids as .*other"):
        answers.read_answers([tmp_path / "out"], other)
    redrawn = write(tmp_path / "redrawn", "questions", Question, [replace(q, id=f"r{q.id}") for q in made])
    with pytest.raises(UserError, match="answers q0, which is not in"):
        answers.read_answers([tmp_path / "out"], redrawn)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("m", "must be NAME=KIND:PLACE, with KIND one of hf, checkpoint"),
        ("=hf:x", "must be NAME=KIND:PLACE"),
        ("m=hf", "must be NAME=KIND:PLACE"),
        ("m=gguf:x", "must be NAME=KIND:PLACE"),
        ("a/b=offline:", "it must not contain / or start with a dot"),
        ("..=offline:", "it must not contain / or start with a dot"),
        ("m=hf:nowhere", "nowhere is not a Hugging Face folder: config.json is missing"),
        ("m=checkpoint:nowhere", "nowhere is not a folder"),
        ("m=endpoint:", "the model's name at the endpoint is missing"),
    ],
)
def test_a_model_that_is_none_is_named(text, told):
    with pytest.raises(UserError, match=told) as error:
        parse_spec(text)
    assert "\n" not in str(error.value)


def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(tmp_path, folder):
    questions, out = write_questions(tmp_path / "questions"), tmp_path / "out"
    with pytest.raises(UserError, match="--models contains a twice"):
        run(AnswersConfig(questions, ("a=offline:", f"a=hf:{folder}"), out))
    with pytest.raises(UserError, match="prompt format 'alpacca': must be one of chat, asclepius, alpaca"):
        run(AnswersConfig(questions, ("a=offline:",), out, Decoding(prompt_format="alpacca")))
    with pytest.raises(UserError, match=r"--decoding\.batch"):
        run(AnswersConfig(questions, ("a=offline:",), out, Decoding(batch=-1)))
    with pytest.raises(UserError, match=r"choose another --decoding\.prompt-format"):
        run(AnswersConfig(questions, (f"a=hf:{folder}",), out, Decoding(prompt_format="chat")))
    with pytest.raises(UserError, match="no such folder"):
        run(AnswersConfig(tmp_path / "absent", ("a=offline:",), out))


def test_a_folder_that_transformers_cannot_open_is_one_line(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").unlink()
    questions = write_questions(tmp_path / "questions")
    with pytest.raises(UserError, match=r"transformers cannot load .*hf ") as error:
        run(AnswersConfig(questions, (f"a=hf:{tmp_path / 'hf'}",), tmp_path / "out"))
    assert "\n" not in str(error.value)


def test_a_checkpoint_has_no_other_prompt_than_its_own(tmp_path, checkpoint):
    questions = write_questions(tmp_path / "questions")
    config = AnswersConfig(
        questions, (f"a=checkpoint:{checkpoint}",), tmp_path / "out", Decoding(prompt_format="alpaca")
    )
    with pytest.raises(UserError, match=r"omit --decoding\.prompt-format alpaca"):
        run(config)


def test_the_known_answer_and_the_rules_answer_without_a_model(tmp_path):
    questions = write_questions(tmp_path / "questions")
    run(AnswersConfig(questions, ("known=reference:", "rules=offline:"), tmp_path / "out"))
    assert {a.text for a in answered(tmp_path / "out/known").values()} == {question(0).reference}
    assert all(a.text for a in answered(tmp_path / "out/rules").values())


def test_a_limit_asks_the_first_questions_and_no_later_run_takes_them_for_all(tmp_path):
    questions = write_questions(tmp_path / "questions")
    config = AnswersConfig(questions, ("known=reference:", "rules=offline:"), tmp_path / "out")
    run(replace(config, shards=replace(config.shards, limit=3)))
    assert [len(answered(tmp_path / "out" / name)) for name in ("known", "rules")] == [3, 3]
    run(config)
    assert [len(answered(tmp_path / "out" / name)) for name in ("known", "rules")] == [8, 8]


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", ["hf:{folder}", "reference:", "offline:"])
def test_parts_of_the_answers_and_of_the_verdicts_join_to_those_of_one_run(folder, asked, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "questions", "questions", Question, [replace(each, reference="Fever.") for each in asked])
    config = AnswersConfig(
        Path("questions"), (f"m={kind.format(folder=folder)}",), Path("answers"), replace(GREEDY, batch=1),
        shards=ShardsConfig(2, 1),
    )  # fmt: skip
    run(config)
    once = files_of(Path("answers/m"))
    shutil.rmtree("answers")
    for number in (2, 1):
        run(replace(config, shards=ShardsConfig(2, 1, part=f"{number}/2")))
    assert found_folders_or_none(Path("answers")) == []
    join = JoinConfig((Path("answers/m.part-1-of-2"), Path("answers/m.part-2-of-2")), Path("answers/m"))
    run(settings_of_stage(join, command_of(join), AnswersConfig))
    assert files_of(Path("answers/m")) == once
    judging = JudgeConfig(
        Path("questions"), (Path("answers"),), Path("judged"), teacher=TeacherConfig(model="rules"),
        shards=ShardsConfig(2, 1),
    )  # fmt: skip
    judge.run(judging)
    verdicts = files_of(Path("judged"))
    for number in (1, 2):
        judge.run(replace(judging, shards=ShardsConfig(2, 1, part=f"{number}/2")))
    join = JoinConfig((Path("judged.part-1-of-2"), Path("judged.part-2-of-2")), Path("judged"))
    judge.run(settings_of_stage(join, command_of(join), JudgeConfig))
    assert files_of(Path("judged")) == verdicts


def found_folders_or_none(folder: Path) -> list[Path]:
    try:
        return found_folders([folder])
    except UserError:
        return []
