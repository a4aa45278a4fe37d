"""`asclepius plan --decode`: memory and speed of generating answers on a machine without access to it.

The two programs of the engine are compiled with the compiler of that machine. Speed follows from memory bandwidth: each
step reads all weights, and the keys and values of every slot.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from asclepius_jax.config import TrainConfig
from asclepius_jax.cost_model.topologies import Topology
from asclepius_jax.distributed.sharding import param_shardings, replicated
from asclepius_jax.generate.load import decoding_mesh
from asclepius_jax.generate.programs import (
    Draws,
    Limits,
    Programs,
    PromptRows,
    Slots,
    compute_shapes,
    page_shardings,
    programs,
)
from asclepius_jax.generate.replica import MOST_PROMPTS, Capacity, parts_of
from asclepius_jax.model.decoder import Inputs, Model
from asclepius_jax.model.kernels.paged_cache import PAGE, empty_pages
from asclepius_jax.model.sizes import DecoderConfig
from asclepius_jax.plan.compile import compile_for
from asclepius_jax.train.setup import build_model
from data_prep.contract.errors import UserError

MOST_SLOTS = 1024  # beyond it, products are no longer bound by reading weights
BYTES = 2  # per value: weights, keys and values in bfloat16
# Keys and values are read from their pages, written to one array and read again (`PagedCache.read`).
PASSES_OVER_CACHE = 3


@dataclass(frozen=True)
class Decoding:
    """Memory and speed of one replica of a model. Bytes are per device."""

    weight_bytes: float
    token_bytes: float  # of a token in the cache
    length: int  # tokens of prompt and answer together

    def slot_bytes(self) -> float:
        return self.token_bytes * math.ceil(self.length / PAGE) * PAGE

    def step_seconds(self, slots: int, topology: Topology, devices: int, flops_per_token: float) -> float:
        """Time of a step, by bandwidth or by arithmetic, whichever takes longer. Slots are half full on average."""
        read = self.weight_bytes + PASSES_OVER_CACHE * slots * self.slot_bytes() / 2
        device = topology.device
        return max(read / device.memory_bandwidth, slots * flops_per_token / devices / device.peak_flops)


def plan_decode(config: TrainConfig, topology: Topology, devices: list[Any], length: int) -> dict[str, Any]:
    """The report of a machine that answers with `length` tokens of prompt and answer together."""
    model = build_model(config.model, config.lora)
    if not 2 <= length <= model.config.context:
        raise UserError(
            f"--decode {length}: must be 2 to {model.config.context}, the model's maximum length of prompt and answer"
        )
    limit = topology.device.limit_bytes
    whole = decoding_mesh(model.config, devices, limit)
    mesh = parts_of(whole)[0]
    decoding = decoding_of(model.config, mesh, length)
    slots, prefill_bytes, peak_bytes = most_slots(model, mesh, decoding, limit)
    counts = sorted({count for count in (1, 8, 32, 128, 512) if count < slots} | {slots}) if slots else []
    seconds = [decoding.step_seconds(count, topology, mesh.size, 2 * model.config.num_params) for count in counts]
    return {
        "topology": topology.name,
        "device": topology.device.kind,
        "devices": topology.count,
        "mesh": dict(whole.shape),
        "length": length,
        "fits": slots > 0,
        "slots": slots,
        "memory": {
            "weights_bytes": decoding.weight_bytes,
            "prefill_bytes": prefill_bytes,
            "slot_bytes": decoding.slot_bytes(),
            "peak_bytes": peak_bytes,
            "limit_bytes": limit,
        },
        "speed": [
            {"slots": count, "step_seconds": step, "tokens_per_second": whole.shape["data"] * count / step}
            for count, step in zip(counts, seconds, strict=True)
        ],
    }


def most_slots(model: Model, mesh: Mesh, decoding: Decoding, limit: int) -> tuple[int, int, int]:
    """The number of slots that fit, memory of a prefill beside weights and cache, and the peak with these slots."""
    prefill, _ = compile_prefill(model, mesh, decoding, 1)
    if prefill is None:
        return 0, 0, 0
    prefill_bytes = prefill.memory_analysis().temp_size_in_bytes
    slots = min(MOST_SLOTS, int(max(0, limit - decoding.weight_bytes - prefill_bytes) / decoding.slot_bytes()))
    while slots:
        decode, _ = compile_decode(model, mesh, decoding, slots)
        if decode is not None:
            used = decode.memory_analysis()
            peak = used.argument_size_in_bytes + max(used.temp_size_in_bytes, prefill_bytes)
            if peak <= limit:
                return slots, prefill_bytes, peak
        slots = slots * 15 // 16  # alignment and constants, which the count leaves out
    return 0, prefill_bytes, 0


def decoding_of(model: DecoderConfig, mesh: Mesh, length: int) -> Decoding:
    weights = BYTES * model.num_params / (mesh.shape["tensor"] * mesh.shape["fsdp"])
    token = 2 * BYTES * model.num_layers * model.num_kv_heads * model.head_dim / mesh.shape["tensor"]
    return Decoding(weights, token, length)


def compile_decode(model: Model, mesh: Mesh, decoding: Decoding, slots: int) -> tuple[Any, str]:
    params, pages, of = abstract_arguments(model, mesh, decoding, slots)
    state = Slots(*(of((slots,), jnp.int32) for _ in Slots._fields))
    table_SM, ends_E = of((slots, math.ceil(decoding.length / PAGE)), jnp.int32), of((1,), jnp.int32)
    limits = Limits(of((), jnp.int32), of((), jnp.bool_))
    decode = bfloat16_programs(model, mesh).decode
    return compile_for(mesh, decode, params, pages, table_SM, state, draws(of, slots), ends_E, limits)


def compile_prefill(model: Model, mesh: Mesh, decoding: Decoding, slots: int) -> tuple[Any, str]:
    params, pages, of = abstract_arguments(model, mesh, decoding, slots)
    shape = (mesh.shape["fsdp"], Capacity().prefill_tokens)
    rows = PromptRows(Inputs(*(of(shape, jnp.int32) for _ in Inputs._fields)), of(shape, jnp.int32))
    last_A = of((MOST_PROMPTS,), jnp.int32)
    prefill = bfloat16_programs(model, mesh).prefill
    return compile_for(mesh, prefill, params, pages, rows, last_A, draws(of, MOST_PROMPTS))


def bfloat16_programs(model: Model, mesh: Mesh) -> Programs:
    return programs(model.config, mesh, "bfloat16", 0)


def draws(of: Any, count: int) -> Draws:
    return Draws(of((count, 2), jnp.uint32), of((count,), jnp.float32), of((count,), jnp.float32))


def abstract_arguments(model: Model, mesh: Mesh, decoding: Decoding, slots: int) -> tuple[Any, Any, Any]:
    """Shapes and shardings of parameters and pages, and a function that makes those of other arguments."""

    def abstract(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    params = jax.tree.map(abstract, compute_shapes(model.shapes, "bfloat16"), param_shardings(mesh, model))
    pages = jax.eval_shape(lambda: empty_pages(model.config, slots * math.ceil(decoding.length / PAGE), "bfloat16"))
    everywhere = replicated(mesh)

    def of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    return params, jax.tree.map(abstract, pages, page_shardings(mesh)), of
