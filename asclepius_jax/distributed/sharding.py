"""The device mesh, and the mesh axis over which each logical axis of an array is split."""

import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from asclepius_jax.config import BatchConfig, MeshConfig, divisors
from asclepius_jax.model.collectives import Parallel
from asclepius_jax.model.decoder import Model
from asclepius_jax.model.kernels.eight_bits import multiplies
from asclepius_jax.model.quantized import Quantized
from asclepius_jax.model.sizes import DecoderConfig
from data_prep.contract.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor", "context")

# Logical axis -> mesh axis. The model names its axes; only this table knows the mesh.
RULES: dict[str, str | None] = {
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "layers": None,
    "head_dim": None,
    "norm": None,
    "rank": None,
}
BATCH_AXES = ("data", "fsdp")  # mesh axes that split rows; the positions of a row are split over context


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of a configuration. Raises UserError if its sizes do not match the devices.

    One device is a 1 x 1 x 1 x 1 mesh, so there is no unsharded code path.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor, config.context]
    written = " x ".join(map(str, sizes))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh {written}: every axis must be 1 or more, and at most one may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {written} (data x fsdp x tensor x context) does not match {len(devices)} devices: "
            f"set --mesh.fsdp -1 and choose other axes that divide {len(devices)} ({divisors(len(devices))})"
        )
    types = (AxisType.Auto,) * len(MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # Allow an axis to be split where no dimension of the torus has its size, though its neighbours are then
        # further apart.
        places = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(places, MESH_AXES, axis_types=types)
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data {sizes[0]} over {slices} slices: only data parallelism may use the network between slices; "
            f"make mesh.data a multiple of {slices}"
        )
    inner, outer = [sizes[0] // slices, *sizes[1:]], [slices, 1, 1, 1]
    places = mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
    return Mesh(places, MESH_AXES, axis_types=types)


def check_model_divides(mesh: Mesh, model: DecoderConfig) -> None:
    """Raise UserError if the mesh does not divide the model, listing the sizes that would."""
    fsdp, tensor, context = mesh.shape["fsdp"], mesh.shape["tensor"], mesh.shape["context"]
    for axis, devices, name, size in (
        ("fsdp", fsdp, "model width", model.embed_dim),
        ("tensor", tensor, "attention heads", model.num_heads),
        ("tensor", tensor, "key/value heads", model.num_kv_heads),
        ("tensor", tensor, "feed-forward width", model.mlp_dim),
        ("tensor", tensor, "vocabulary", model.table_rows),
        # Around attention, each tensor device's heads are split over context devices.
        ("tensor x mesh.context", tensor * context, "attention heads", model.num_heads),
        ("tensor x mesh.context", tensor * context, "key/value heads", model.num_kv_heads),
    ):
        if size % devices:
            fitting = [n for n in divisors(size) if n <= mesh.size]
            raise UserError(f"mesh.{axis} {devices} does not divide the {name} of {size}: use one of {fitting}")


def check_layout(mesh: Mesh, model: DecoderConfig, row_length: int, global_batch: int) -> None:
    """Raise UserError if the mesh does not divide the model, the rows or the batch, with sizes that would."""
    check_model_divides(mesh, model)
    parts = mesh.shape["tensor"] * mesh.shape["context"]
    if row_length % parts:
        raise UserError(
            f"data.row_length {row_length} does not spread over mesh.tensor x mesh.context = {parts} devices: "
            f"pack rows whose length is a multiple of {parts} tokens"
        )
    if global_batch % batch_parts(mesh):
        raise UserError(
            f"batch.global_batch {global_batch} does not spread over mesh.data x mesh.fsdp = {batch_parts(mesh)} "
            f"devices: make it a multiple of {batch_parts(mesh)}, or split rows with mesh.tensor or "
            "mesh.context"
        )


def check_batch_divides(mesh: Mesh, batch: BatchConfig) -> None:
    """Raise UserError if the rows of a microbatch do not spread over the mesh, with numbers that would."""
    rows, parts = batch.global_batch // batch.microbatches, batch_parts(mesh)
    if rows % parts:
        fitting = [n for n in divisors(batch.global_batch // parts) if n > 0]
        raise UserError(
            f"batch.microbatches {batch.microbatches} leaves {rows} rows, which do not spread over mesh.data x "
            f"mesh.fsdp = {parts} devices: use one of {fitting}"
        )


def batch_parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def parallel_of(mesh: Mesh, reduce_dtype: str = "float32", matmul: str = "bfloat16") -> Parallel:
    shape = mesh.shape
    device = mesh.devices.flat[0]
    # XLA for TPU gathers inside products, and for weights that no product of the layer uses it finds none.
    ahead = shape["fsdp"] > 1 and device.platform != "tpu"
    native = multiplies(matmul, device)
    return Parallel(shape["fsdp"], shape["tensor"], shape["context"], reduce_dtype, matmul, native, ahead)


def specs_of(axes: Any) -> Any:
    """The PartitionSpec of each array in a tree of logical axes. Raises KeyError for an axis without a rule."""
    return jax.tree.map(
        lambda names: PartitionSpec(*(RULES[name] for name in names)),
        axes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def param_shardings(mesh: Mesh, model: Model) -> Any:
    check_model_divides(mesh, model.config)
    check_blocks_whole(mesh, model)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(model.axes))


def check_blocks_whole(mesh: Mesh, model: Model) -> None:
    """Raise UserError if the mesh would split a block of quantized values, which have one scale, over devices."""

    def check(path: Any, leaf: Any, axes: Any) -> None:
        axis = RULES[axes.codes[-1]] if isinstance(leaf, Quantized) else None
        if axis is None or leaf.scales.shape[-1] % (devices := mesh.shape[axis]) == 0:
            return
        fitting = [n for n in divisors(devices) if leaf.scales.shape[-1] % n == 0]
        raise UserError(
            f"mesh.{axis} {devices} cuts the blocks of {leaf.block} values in which {path[-1].key}, {leaf.shape[-1]} "
            f"wide, is quantized (lora.base_dtype): use one of {fitting}"
        )

    jax.tree.map_with_path(check, model.shapes, model.axes, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def adapter_shardings(mesh: Mesh, model: Model) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(model.adapter_axes))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of rows over data and fsdp, and of their positions over context. Tensor devices hold the same rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))
