"""An answer depends on its request alone: not on slots, order, mesh, cache or on who else is answered."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asclepius_jax.config import MeshConfig
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.engine import Engine
from asclepius_jax.generate.load import decoding_mesh
from asclepius_jax.generate.replica import Answer, Capacity, Request, pages_that_fit, row_length
from asclepius_jax.model.decoder import Model, Params, build, init_params
from asclepius_jax.model.kernels.paged_cache import PAGE
from asclepius_jax.model.sizes import VARIANTS
from data_prep.contract.errors import UserError
from tests.helpers.made_inputs import MODEL

CONFIG = dataclasses.replace(MODEL, max_length=512)
# A window shorter than most prompts, in every other layer.
WINDOWED = dataclasses.replace(CONFIG, layer_kinds=("window", "full"), window=24)
NO_END = (CONFIG.vocab_size,)


def params_on(config: Any, mesh: MeshConfig) -> tuple[Model, Params]:
    """Random parameters, the same on every mesh, with logits far enough apart to have one greatest."""
    model = build(config)
    sizes = mesh.data * mesh.fsdp * mesh.tensor
    shardings = param_shardings(make_mesh(mesh, jax.devices()[:sizes]), model)
    params = jax.jit(lambda: jax.tree.map(lambda x: 4 * x if x.ndim > 2 else x, init_params(config, 0)))()
    return model, jax.device_put(params, shardings)


def requests() -> list[Request]:
    """Prompts and answers of skewed lengths, some of them sampled, one longer than a page and one of a single token."""
    random = np.random.default_rng(0)
    made = []
    for number, length in enumerate((5, 64, 1, 65, 130, 17, 30, 3, 250, 9, 40, 2)):
        prompt = tuple(random.integers(3, 320, length).tolist())
        sampled = {"temperature": 0.8, "top_p": 0.9 if number % 4 else 1.0} if number % 3 == 0 else {}
        made.append(Request(prompt, (1, 70, 4, 12)[number % 4], key=(7, number), **sampled))
    return made


def answers(model: Model, params: Params, asked: list[Request], capacity: Capacity, ends: Any = NO_END) -> list[Answer]:
    engine = Engine(model, params, ends, capacity, "float32")
    found = dict(engine.run(asked))
    assert all(not replica.answers and len(replica.free_pages) == replica.num_pages for replica in engine.replicas)
    return [found[place] for place in range(len(asked))]


def texts(found: list[Answer]) -> list[tuple[list[int], str]]:
    return [(answer.tokens, answer.finish) for answer in found]


@pytest.fixture(scope="module")
def alone() -> list[Answer]:
    """Every request in an engine of its own."""
    model, params = params_on(CONFIG, MeshConfig(1, 1))
    return [answers(model, params, [request], Capacity(1))[0] for request in requests()]


def test_answers_have_their_lengths_and_differ(alone):
    assert [len(answer.tokens) for answer in alone] == [request.max_new_tokens for request in requests()]
    assert len({tuple(answer.tokens[:3]) for answer in alone if len(answer.tokens) > 3}) > 5


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_the_number_of_slots_changes_no_answer(alone, slots: int):
    assert texts(answers(*params_on(CONFIG, MeshConfig(1, 1)), requests(), Capacity(slots))) == texts(alone)


def test_the_order_changes_no_answer(alone):
    loaded = params_on(CONFIG, MeshConfig(1, 1))
    order = np.random.default_rng(1).permutation(len(alone))
    found = answers(*loaded, [requests()[place] for place in order], Capacity(3))
    assert texts(found) == [texts(alone)[place] for place in order]


@pytest.mark.parametrize("mesh", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2)])
def test_the_mesh_changes_no_answer(alone, mesh: tuple[int, int, int]):
    assert texts(answers(*params_on(CONFIG, MeshConfig(*mesh)), requests(), Capacity(3))) == texts(alone)


def test_windows_change_nothing_about_that():
    asked = requests()
    model, params = params_on(WINDOWED, MeshConfig(1, 1))
    expected = [answers(model, params, [request], Capacity(1))[0] for request in asked]
    assert texts(answers(model, params, asked, Capacity(4))) == texts(expected)
    full = answers(*params_on(CONFIG, MeshConfig(1, 1)), asked, Capacity(4))
    assert texts(full) != texts(expected)


def test_a_small_cache_lets_requests_wait_and_changes_no_answer(alone):
    longest = max(len(r.prompt) + r.max_new_tokens for r in requests())
    capacity = Capacity(8, longest, cache_tokens=longest, prefill_tokens=100)
    assert texts(answers(*params_on(CONFIG, MeshConfig(1, 1)), requests(), capacity)) == texts(alone)


def test_an_end_makes_room_and_is_not_part_of_the_answer(alone):
    ends = sorted({answer.tokens[min(5, len(answer.tokens) - 1)] for answer in alone})
    found = answers(*params_on(CONFIG, MeshConfig(1, 1)), requests(), Capacity(3), ends)
    for answer, whole in zip(found, alone, strict=True):
        end = next((place for place, token in enumerate(whole.tokens) if token in ends), None)
        assert answer.tokens == whole.tokens[:end]
        assert answer.finish == ("length" if end is None else "stop")


def test_log_probabilities_are_those_of_the_whole_text():
    model, params = params_on(CONFIG, MeshConfig(1, 1))
    asked = [dataclasses.replace(request, top_logprobs=3 * (n % 2)) for n, request in enumerate(requests())]
    positions = jnp.arange(CONFIG.context)[None]
    forward = jax.jit(lambda tokens: model.merge(params)(tokens, positions, positions * 0 + 1, "float32")[0])
    for request, answer in zip(asked, answers(model, params, asked, Capacity(4)), strict=True):
        start, end = len(request.prompt), len(request.prompt) + len(answer.tokens)
        tokens = np.zeros((1, CONFIG.context), np.int32)
        tokens[0, :end] = [*request.prompt, *answer.tokens]
        expected = np.asarray(jax.nn.log_softmax(forward(tokens)[start - 1 : end - 1]))
        np.testing.assert_allclose(
            answer.logprobs, expected[range(len(answer.tokens)), answer.tokens], atol=2e-5, rtol=1e-5
        )
        assert len(answer.top) == (len(answer.tokens) if request.top_logprobs else 0)
        for top, row in zip(answer.top, expected, strict=False):
            assert [token for token, _ in top] == np.argsort(-row)[:3].tolist()
            np.testing.assert_allclose([logprob for _, logprob in top], np.sort(row)[::-1][:3], atol=2e-5, rtol=1e-5)


def test_a_cancelled_request_frees_its_slot_and_the_others_go_on(alone):
    engine = Engine(*params_on(CONFIG, MeshConfig(1, 1)), NO_END, Capacity(2), "float32")
    handles = [engine.add(request) for request in requests()]
    engine.step(1)
    engine.cancel(handles[1])  # in a slot
    engine.cancel(handles[-1])  # waiting
    assert handles[-1] not in engine.waiting
    while engine.busy:
        engine.step(5)
    assert [handle.finish for handle in handles].count("cancelled") == 2
    assert 0 < len(handles[1].tokens) < requests()[1].max_new_tokens
    assert not handles[-1].tokens
    kept = [place for place in range(len(handles)) if place not in (1, len(handles) - 1)]
    assert [texts(handles)[place] for place in kept] == [texts(alone)[place] for place in kept]
    assert len(engine.replicas[0].free_pages) == engine.replicas[0].num_pages


def test_a_step_ends_with_the_first_answer_while_others_wait():
    engine = Engine(*params_on(CONFIG, MeshConfig(1, 1)), NO_END, Capacity(2), "float32")
    for new in (3, 30, 2):
        engine.add(Request((5, 6, 7), new))
    assert [len(answer.tokens) for answer in engine.step()] == [3, 3]
    assert sorted(len(answer.tokens) for answer in engine.step()) == [2, 30]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request((), 4), "a prompt is empty"),
        (Request((5,) * 90, 11), "90 prompt tokens and 11 new tokens exceed the maximum length of 100"),
        (Request((5,) * 80, 10), "80 prompt tokens and 10 new tokens exceed the cache of 64 tokens"),
    ],
)
def test_a_request_that_no_slot_can_take_is_refused(request_: Request, told: str):
    engine = Engine(*params_on(CONFIG, MeshConfig(1, 1)), NO_END, Capacity(2, 100, cache_tokens=PAGE), "float32")
    with pytest.raises(UserError, match=told):
        engine.add(request_)
    assert not engine.busy


def test_rows_of_prompts_have_few_lengths_and_little_padding():
    lengths = {row_length(tokens) for tokens in range(1, 4097)}
    assert len(lengths) == 10
    assert all(length % 128 == 0 for length in lengths)
    assert all(tokens <= row_length(tokens) < 2 * max(tokens, 128) for tokens in range(1, 4097))
    assert all(row_length(tokens) < 1.5 * tokens for tokens in range(513, 4097))


class Chip:
    """A device of a machine that is not here."""

    platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

    def __init__(self, number: int):
        self.id = number
        self.coords = (number % 4, number // 4, 0)
        self.core_on_chip = 0

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": int(15.75 * 2**30)}


@pytest.mark.parametrize(
    ("name", "expected"),
    # 0.3, 13.5, 26 and 16.1 GB of weights in bfloat16, on eight devices of which 4.2 GB each are for weights.
    [("smollm2_135m", (8, 1, 1)), ("llama2_7b", (2, 1, 4)), ("llama2_13b", (1, 1, 8)), ("llama3_8b", (2, 1, 4))],
)
def test_weights_are_split_over_the_fewest_devices_that_hold_them(monkeypatch, name: str, expected):
    monkeypatch.setattr("jax.experimental.mesh_utils.create_device_mesh", lambda s, d, **_: np.array(d).reshape(s))
    shape = decoding_mesh(VARIANTS[name], [Chip(number) for number in range(8)]).shape
    assert (shape["data"], shape["fsdp"], shape["tensor"]) == expected


def test_a_cache_is_no_larger_than_the_memory_that_weights_leave(monkeypatch):
    mesh = make_mesh(MeshConfig(1, 1), jax.devices()[:1])
    monkeypatch.setattr("asclepius_jax.generate.replica.available_memory", lambda: 2**30 * jax.local_device_count())
    # A token of 7B has 2 x 32 layers x 32 heads x 128 values of two bytes: 32 MiB per page.
    assert pages_that_fit(VARIANTS["llama2_7b"], mesh, "bfloat16") == 16
    chip = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 16 * 2**30, "bytes_in_use": 4 * 2**30})
    mesh = types.SimpleNamespace(devices=np.array([[chip]]), shape={"tensor": 4})
    # A token of 7B has 2 x 32 layers x 8 heads x 128 values of two bytes on each of four devices: 8 MiB per page.
    assert pages_that_fit(VARIANTS["llama2_7b"], mesh, "bfloat16") == int(0.8 * 12 * 2**30 / 2**23)
