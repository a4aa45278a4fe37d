"""Decoding with a cache says what transformers.generate says, and stops where it should."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.ask import GenerateConfig, read_prompt, run
from asclepius_jax.generate.batch import generate
from asclepius_jax.generate.load import load_checkpoint
from asclepius_jax.generate.sampling import LEAST_TEMPERATURE, Sampling, pick
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface import names
from data_prep.contract.errors import UserError
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE, render_prompt
from data_prep.contract.tokenizer import JsonTokenizer
from tests.helpers.made_inputs import MODEL, transformers_model

transformers = pytest.importorskip("transformers")

NEVER = MODEL.vocab_size  # an EOS that no token is
PROMPTS = [np.random.default_rng(n).integers(3, 320, n).tolist() for n in (5, 64, 1, 17, 30)]


@pytest.fixture(scope="module")
def folder(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A random model that transformers made and saved; its logits are far enough apart to have one greatest."""
    path = tmp_path_factory.mktemp("model")
    JsonTokenizer(small_tokenizer).save(path)
    transformers_model(path, MODEL, noise=0.2)
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint") / "run"
    run_import(ImportConfig(folder, out))
    return out


@pytest.fixture(scope="module")
def loaded(folder: Path):
    model = build(MODEL)
    mesh = make_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])
    return model, names.load_params(folder, model, param_shardings(mesh, model))


def answers(loaded, eos_id: int = NEVER, prompts=PROMPTS, **sampling) -> list[list[int]]:
    return generate(*loaded, prompts, eos_id, Sampling(**{"max_new_tokens": 32, **sampling}), "float32")


def test_greedy_decoding_is_that_of_transformers(folder: Path, loaded):
    torch = pytest.importorskip("torch")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = [theirs.generate(torch.tensor([p]), **settings)[0, len(p) :].tolist() for p in PROMPTS]
    assert answers(loaded) == expected
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)


def test_a_prompt_is_answered_as_it_is_alone(loaded):
    """Padding to the longest prompt of a batch changes nothing."""
    assert answers(loaded, prompts=PROMPTS[2:3]) == answers(loaded)[2:3]


def test_an_end_of_text_ends_an_answer_and_is_not_in_it(loaded):
    free = answers(loaded)
    eos_id = free[0][7]
    assert answers(loaded, eos_id) == [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in free]
    assert len(answers(loaded, free[0][0])[0]) == 0


def test_sampling_follows_its_seed(loaded):
    first, again, other = (answers(loaded, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first != answers(loaded)


def test_equal_prompts_of_a_batch_are_sampled_apart(loaded):
    found = answers(loaded, prompts=[PROMPTS[0]] * 4, temperature=1.0)
    assert len({tuple(ids) for ids in found}) == 4


def test_the_sampled_answer_to_a_prompt_depends_on_its_own_seed_alone(loaded):
    """Neither on its place, nor on the other prompts, nor on their number."""
    seeds = (7, 8, 9, 10, 7)
    batch = answers(loaded, temperature=1.0, seeds=seeds)
    for place in (0, 3):
        assert answers(loaded, prompts=PROMPTS[place : place + 1], temperature=1.0, seeds=(seeds[place],)) == [
            batch[place]
        ]
    turned = answers(loaded, prompts=PROMPTS[::-1], temperature=1.0, seeds=seeds[::-1])
    assert turned == batch[::-1]
    # Without seeds of its own, a prompt has that of its place.
    assert answers(loaded, temperature=1.0)[:2] == answers(loaded, prompts=PROMPTS[:2], temperature=1.0)


def picked(logits_SV: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """The next token of sequences that share a key and settings."""
    S = len(logits_SV)
    keys = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), (S, 1)))
    return pick(logits_SV, keys, jnp.full(S, temperature), jnp.full(S, top_p))


@pytest.mark.parametrize("top_p", [0.0, 1e-50, 1e-6])
def test_the_smallest_nucleus_is_the_likeliest_token(top_p: float):
    logits = jnp.array([[0.1, 3.0, 2.0, 2.9], [5.0, 1.0, 1.0, 1.0]])
    drawn = [picked(logits, jax.random.key(n), 1.0, top_p).tolist() for n in range(5)]
    assert drawn == [[1, 0]] * 5


def test_the_smallest_temperature_is_greedy():
    """Logits divided by it would be infinite, all of those above 0 alike."""
    logits = jnp.array([[-1e4, 30.0, 31.0, 1e3, 999.9]])
    drawn = [picked(logits, jax.random.key(n), LEAST_TEMPERATURE, top_p) for n in range(9) for top_p in (1, 0.9)]
    assert {token for tokens in drawn for token in tokens.tolist()} == {3}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it must be 1 or more"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1: it must be 1 or more"),
        (
            {"temperature": -1.0},
            "temperature is -1.0: it must be 0, which takes the most likely token, or 1e-06 or more",
        ),
        ({"temperature": 1e-50}, "temperature is 1e-50: it must be 0"),
        ({"temperature": math.nan}, "temperature is nan: it must be 0"),
        ({"temperature": math.inf}, "temperature is inf: it must be 0"),
        ({"top_p": 0.0}, "top_p is 0.0: it must be above 0 and at most 1"),
        ({"top_p": -0.5}, "top_p is -0.5: it must be above 0"),
        ({"top_p": 1.5}, "top_p is 1.5: it must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top_p is nan: it must be above 0"),
        ({"seed": -1}, "seed is -1: it must be from 0 to 4,294,967,295"),
        ({"seed": 2**70}, "it must be from 0 to 4,294,967,295"),
    ],
)
def test_settings_that_no_text_can_be_made_with_are_refused_before_anything_is_loaded(values: dict, told: str, loaded):
    with pytest.raises(UserError, match=re.escape(told)):
        answers(loaded, **values)
    with pytest.raises(UserError, match=re.escape(told)):
        run(GenerateConfig(Path("absent"), prompt="fever", sampling=Sampling(**values)))


def test_no_prompt_has_no_answer_and_an_empty_one_is_refused(loaded):
    assert answers(loaded, prompts=[]) == []
    with pytest.raises(UserError, match="a prompt is empty"):
        answers(loaded, prompts=[[5], []])


def test_a_small_nucleus_holds_the_likeliest_token_alone(loaded):
    assert answers(loaded, temperature=1.0, top_p=1e-6) == answers(loaded)


def test_sampling_stays_within_the_nucleus():
    logits = jnp.log(jnp.array([0.05, 0.5, 0.15, 0.3]))
    keys = jax.random.split(jax.random.key(0), 4000)

    def frequencies(temperature: float, top_p: float) -> np.ndarray:
        drawn = pick(jnp.tile(logits, (4000, 1)), keys, jnp.full(4000, temperature), jnp.full(4000, top_p))
        return np.bincount(np.asarray(drawn), minlength=4) / len(keys)

    # 0.5 + 0.3 reach 0.7, so the nucleus is these two, in their proportion; three standard deviations are 0.024.
    np.testing.assert_allclose(frequencies(1.0, 0.7), [0, 0.625, 0, 0.375], atol=0.024)
    np.testing.assert_allclose(frequencies(1.0, 1.0), [0.05, 0.5, 0.15, 0.3], atol=0.024)
    sharp = np.array([0.05, 0.5, 0.15, 0.3]) ** 2
    np.testing.assert_allclose(frequencies(0.5, 1.0), sharp / sharp.sum(), atol=0.024)
    assert frequencies(0.0, 1.0).tolist() == [0, 1, 0, 0]


def test_a_prompt_beyond_the_model_is_refused(loaded):
    with pytest.raises(
        UserError, match=r"300 prompt tokens and 32 new tokens exceed the model's maximum length of 256"
    ):
        answers(loaded, prompts=[[5] * 300])


# ---------------------------------------------------------------- from a checkpoint


def test_a_checkpoint_answers_as_its_folder_does(folder: Path, checkpoint: Path, capsys):
    capsys.readouterr()
    run(GenerateConfig(checkpoint, prompt="fever", sampling=Sampling(16), mesh=MeshConfig(2, 2, 2), dtype="float32"))
    printed = capsys.readouterr().out
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    ids = tokenizer("fever", return_tensors="pt")["input_ids"]
    new = theirs.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    assert printed == JsonTokenizer(folder).decode(new) + "\n"


def test_parameters_are_the_same_on_any_mesh(checkpoint: Path):
    one, many = (load_checkpoint(checkpoint, MeshConfig(*shape))[1] for shape in ((2, 2, 2), (8, 1, 1)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(many))


def test_a_note_and_an_instruction_are_rendered_as_in_training(tmp_path: Path):
    (tmp_path / "note.txt").write_text("  HPI: fever.\n\n")
    config = GenerateConfig(tmp_path, note=tmp_path / "note.txt", instruction=" How long? ")
    expected = render_prompt(TRAINING_TEMPLATE, "HPI: fever.", "How long?")
    assert read_prompt(config, TRAINING_TEMPLATE) == expected
    assert read_prompt(config, "{instruction}|{note}\n") == "How long?|HPI: fever.\n"
    assert read_prompt(GenerateConfig(tmp_path, prompt=" as it is"), TRAINING_TEMPLATE) == " as it is"


def test_a_note_from_a_word_processor_is_plain_text(tmp_path: Path):
    (tmp_path / "note.txt").write_bytes("Fièvre\r\n39\xa0°C, “ill”".encode("cp1252"))
    config = GenerateConfig(tmp_path, note=tmp_path / "note.txt", instruction="How long?")
    assert read_prompt(config, "{instruction}|{note}\n") == "How long?|Fièvre\n39 °C, “ill”\n"
    (tmp_path / "note.txt").write_bytes(b"%PDF-1.7")
    with pytest.raises(UserError, match=r"note\.txt is a PDF file"):
        read_prompt(config, TRAINING_TEMPLATE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "no prompt: set --prompt"),
        ({"prompt": "a", "instruction": "b"}, "--prompt cannot be combined"),
        ({"instruction": "b"}, "no prompt: set --prompt"),
        ({"note": Path("absent.txt"), "instruction": "b"}, "absent.txt: no such file"),
    ],
)
def test_half_a_question_is_refused(checkpoint: Path, options: dict, told: str):
    with pytest.raises(UserError, match=told):
        run(GenerateConfig(checkpoint, **options))
