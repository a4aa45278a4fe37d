"""One copy of a model with its slots and its cache: what is in each slot, and the calls of the compiled programs."""

import dataclasses
from collections import deque
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from asclepius_jax.config import MeshConfig
from asclepius_jax.cost_model.hardware import available_memory
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.generate.programs import (
    Drawn,
    Draws,
    DType,
    Limits,
    Programs,
    PromptRows,
    Slots,
    make_pages,
    programs,
)
from asclepius_jax.model.decoder import Inputs, Model, Params
from asclepius_jax.model.kernels.paged_cache import PAGE
from asclepius_jax.model.sizes import DecoderConfig

LEAST_ROW = 128  # positions of the shortest row of prompts; splash attention needs a multiple of it
MOST_PROMPTS = 16  # prompts in one prefill
PART_FOR_CACHE = 0.8  # of the memory that weights leave; the rest is for reading prompts
PART_OF_MACHINE = 0.5
MOST_TOP = 20  # most likely tokens per position that a request may ask for


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt and how to continue it."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    key: tuple[int, int] = (0, 0)  # data of the random key
    top_logprobs: int = 0  # most likely tokens to report per position, at most MOST_TOP


@dataclasses.dataclass(eq=False)
class Answer:
    """The continuation of a request so far. `finish` is empty until it has ended: stop, length or cancelled."""

    request: Request
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    finish: str = ""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Room of an engine."""

    slots: int = 32
    """Answers decoded at once, on each replica of the model."""
    max_length: int = 0
    """Most tokens of prompt and answer together; 0 takes the model's maximum length."""
    cache_tokens: int = 0
    """Tokens in the cache of a replica; 0 has room for every slot at its maximum length, as far as memory allows."""
    prefill_tokens: int = 2048
    """Tokens of prompts that one forward pass reads; a longer prompt has a pass of its own."""


def pages_of(request: Request) -> int:
    """Pages for prompt and answer. The last token that is drawn is never read, and needs no place."""
    return -(-(len(request.prompt) + request.max_new_tokens - 1) // PAGE)


class Replica:
    """Slots over one copy of the parameters, on a mesh without data parallelism."""

    def __init__(
        self, model: Model, params: Params, mesh: Mesh, capacity: Capacity, ends_E: np.ndarray, dtype: DType
    ):  # fmt: skip
        self.model, self.params, self.mesh, self.dtype, self.ends_E = model, params, mesh, dtype, ends_E
        self.prefill_tokens = capacity.prefill_tokens
        longest = -(-capacity.max_length // PAGE)
        wanted = -(-capacity.cache_tokens // PAGE) or capacity.slots * longest
        self.num_pages = min(wanted, pages_that_fit(model.config, mesh, dtype))
        self.pages = make_pages(model.config, mesh, self.num_pages, dtype)()
        self.free_pages = deque(range(1, self.num_pages + 1))
        self.table_SM = np.zeros((capacity.slots, longest), np.int32)
        self.answers: dict[int, Answer] = {}  # by slot

    def free_finished(self) -> None:
        """Empty the slots of finished answers."""
        for slot in [slot for slot, answer in self.answers.items() if answer.finish]:
            self.free_pages.extend(page for page in self.table_SM[slot].tolist() if page)
            self.table_SM[slot] = 0
            del self.answers[slot]

    def admit(self, waiting: deque[Answer]) -> list[list[int]]:
        """Move waiting requests into free slots, in their order, as far as slots, pages and rows have room.

        Returns the slots of each row of prompts, one row per fsdp device.
        """
        rows: list[list[int]] = [[] for _ in range(self.mesh.shape["fsdp"])]
        room = [self.prefill_tokens] * len(rows)
        free = [slot for slot in range(len(self.table_SM)) if slot not in self.answers]
        while waiting and free and sum(map(len, rows)) < MOST_PROMPTS:
            request, row = waiting[0].request, int(np.argmax(room))
            needed = pages_of(request)
            if needed > len(self.free_pages) or (rows[row] and len(request.prompt) > room[row]):
                break
            slot = free.pop(0)
            self.answers[slot] = waiting.popleft()
            self.table_SM[slot, :needed] = [self.free_pages.popleft() for _ in range(needed)]
            rows[row].append(slot)
            room[row] -= len(request.prompt)
        return rows

    def read_prompts(self, waiting: deque[Answer]) -> Callable[[], list[Answer]]:
        """Dispatch a prefill of waiting requests; the result waits for it and returns their answers."""
        rows = self.admit(waiting)
        answers = {place: self.answers[slot] for place, slot in enumerate(slot for row in rows for slot in row)}
        if not answers:
            return list
        packed, last_A = self.packed(rows)
        prefill = self.programs(answers).prefill
        drawn, self.pages = prefill(self.params, self.pages, packed, last_A, draws_of(answers, MOST_PROMPTS))

        def result() -> list[Answer]:
            self.extend(answers, Drawn(*(np.asarray(each)[:, None] for each in drawn)), 1)
            return list(answers.values())

        return result

    def packed(self, rows: list[list[int]]) -> tuple[PromptRows, np.ndarray]:
        """The prompts of the slots as packed rows, and the flat index of the last token of each, (MOST_PROMPTS,)."""
        T = row_length(max(sum(len(self.answers[slot].request.prompt) for slot in row) for row in rows))
        tokens_BT, positions_BT, segments_BT, page_BT = (np.zeros((len(rows), T), np.int32) for _ in range(4))
        last = []
        for row, slots in enumerate(rows):
            start = 0
            for segment, slot in enumerate(slots, 1):
                prompt = self.answers[slot].request.prompt
                part, positions = slice(start, start + len(prompt)), np.arange(len(prompt))
                tokens_BT[row, part], positions_BT[row, part], segments_BT[row, part] = prompt, positions, segment
                page_BT[row, part] = self.table_SM[slot, positions // PAGE]
                start += len(prompt)
                last.append(row * T + start - 1)
        last_A = np.array(last + [0] * (MOST_PROMPTS - len(last)), np.int32)
        return PromptRows(Inputs(tokens_BT, positions_BT, segments_BT), page_BT), last_A

    def draw(self, most_tokens: int, until_finished: bool) -> Callable[[], list[Answer]]:
        """Dispatch the next tokens of all slots; the result waits for them and returns the extended answers."""
        self.free_finished()
        answers = dict(self.answers)
        if not answers:
            return list
        slots = slots_of(answers, len(self.table_SM))
        pages = -(-int(np.max(slots.position + np.minimum(slots.left, most_tokens))) // PAGE)
        table_SM = self.table_SM[:, : power_of_two(pages)]
        draws, limits = draws_of(answers, len(self.table_SM)), Limits(np.int32(most_tokens), np.bool_(until_finished))
        decode = self.programs(answers).decode
        steps, drawn, self.pages = decode(self.params, self.pages, table_SM, slots, draws, self.ends_E, limits)

        def result() -> list[Answer]:
            self.extend(answers, Drawn(*map(np.asarray, drawn)), int(steps))
            self.free_finished()
            return list(answers.values())

        return result

    def programs(self, answers: dict[int, Answer]) -> Programs:
        top = MOST_TOP if any(answer.request.top_logprobs for answer in answers.values()) else 0
        return programs(self.model.config, self.mesh, self.dtype, top)

    def extend(self, answers: dict[int, Answer], drawn: Drawn, steps: int) -> None:
        """Append the tokens of `steps` steps, (slots, at least `steps`), to the answers, up to the end of each."""
        for slot, answer in answers.items():
            for step in range(steps):
                if answer.finish:
                    break
                token = int(drawn.tokens[slot, step])
                if token in self.ends_E:
                    answer.finish = "stop"
                    break
                answer.tokens.append(token)
                answer.logprobs.append(float(drawn.logprobs[slot, step]))
                if top := answer.request.top_logprobs:
                    pairs = zip(drawn.top_tokens[slot, step], drawn.top_logprobs[slot, step], strict=True)
                    answer.top.append([(int(token), float(logprob)) for token, logprob in pairs][:top])
                if len(answer.tokens) == answer.request.max_new_tokens:
                    answer.finish = "length"


def slots_of(answers: dict[int, Answer], count: int) -> Slots:
    """The state of every slot, from which the next token is drawn; the first token comes from the prefill."""
    rows = np.zeros((count, 4), np.int32)
    for slot, answer in answers.items():
        drawn, request = len(answer.tokens), answer.request
        rows[slot] = answer.tokens[-1], len(request.prompt) + drawn - 1, drawn, request.max_new_tokens - drawn
    return Slots(*rows.T)


def draws_of(answers: dict[int, Answer], count: int) -> Draws:
    draws = Draws(np.zeros((count, 2), np.uint32), np.zeros(count, np.float32), np.ones(count, np.float32))
    for slot, answer in answers.items():
        request = answer.request
        draws.keys[slot], draws.temperature[slot], draws.top_p[slot] = request.key, request.temperature, request.top_p
    return draws


def row_length(tokens: int) -> int:
    """Length of a row for so many tokens, of a few that are compiled: 128, 256, 384, 512, 768, 1024, 1536, 2048, and
    then multiples of 1,024."""
    if tokens > 2048:
        return -(-tokens // 1024) * 1024
    whole = power_of_two(tokens)
    return max(LEAST_ROW, whole * 3 // 4 if tokens <= whole * 3 // 4 and whole >= 512 else whole)


def pages_that_fit(model: DecoderConfig, mesh: Mesh, dtype: DType) -> int:
    """Pages that the free memory of a device, or of this machine, holds."""
    stats = mesh.devices.flat[0].memory_stats() or {}
    values = 2 * model.num_layers * PAGE * model.num_kv_heads * model.head_dim // mesh.shape["tensor"]
    if "bytes_limit" in stats:
        free = PART_FOR_CACHE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    else:  # devices of a CPU share its memory, with all else that runs there
        free = PART_OF_MACHINE * available_memory() / jax.local_device_count()
    return max(1, int(free / (values * jnp.dtype(dtype).itemsize)))


def power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def replicas_of(model: Model, params: Params) -> list[tuple[Mesh, Params]]:
    """The mesh and the parameters of each index of the mesh's axis `data`, without copying them."""
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding):
        mesh = make_mesh(MeshConfig(1, 1), list(sharding.device_set))
        return [(mesh, jax.device_put(params, param_shardings(mesh, model)))]
    mesh = sharding.mesh
    return [(part, jax.tree.map(lambda array: on_part(array, part), params)) for part in parts_of(mesh)]  # noqa: B023


def parts_of(mesh: Mesh) -> list[Mesh]:
    return [Mesh(devices[None], mesh.axis_names, axis_types=mesh.axis_types) for devices in mesh.devices]


def on_part(array: jax.Array, part: Mesh) -> jax.Array:
    sharding = NamedSharding(part, array.sharding.spec)
    shards = {shard.device: shard.data for shard in array.addressable_shards}
    arrays = [shards[device] for device in sharding.addressable_devices_indices_map(array.shape)]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, arrays)
