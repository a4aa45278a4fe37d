"""The text of compiled programs: what XLA printed for the training step with jax 0.10.2 and 0.12, shortened."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from asclepius_jax.plan import hlo

BY_FOUR, BY_TWO = [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", BY_FOUR),
        ("[2,4]<=[8]", BY_FOUR),
        ("[4,2]<=[2,4]T(1,0)", BY_TWO),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", BY_FOUR),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'data','tensor'}", BY_TWO),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("mesh['data'=2,'fsdp'=4] {'fsdp','data'}", [[0, 4, 1, 5, 2, 6, 3, 7]]),
        # A part of an axis: `'a':(1)2` is the outer half of its places, `(4)2` the inner one.
        ("mesh['data'=2,'fsdp'=4] {'fsdp':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['data'=2,'fsdp'=4] {'fsdp':(2)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=8] {'a':(4)2,'a':(1)2}", [[0, 4, 1, 5], [2, 6, 3, 7]]),
        # The order of the devices: an array of 4 x 2 transposed, or written out.
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_0'}",
         [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=2,'b'=4], device_ids=(0,4,1,5,2,6,3,7) {'b'}", [[0, 4, 1, 5], [2, 6, 3, 7]]),
    ],
)  # fmt: skip
def test_each_form_of_replica_groups_is_read(written: str, groups: list[list[int]]):
    line = f"  %sum = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={written}, use_global_device_ids=true"
    assert hlo.replica_groups(line).tolist() == groups


def test_an_empty_list_of_groups_is_one_group_of_all_devices():
    groups = hlo.replica_groups("  %sum = f32[8]{0} all-reduce(%x), replica_groups={}, to_apply=%add")
    assert hlo.mesh_axes(groups, {"data": 2, "fsdp": 4, "tensor": 1}) == ("data", "fsdp")


@pytest.mark.parametrize(
    "written",
    [
        "replica_groups=mesh['a'=8] {'a':[1]2}",
        "replica_groups=mesh['a'=8], device_ids=([2,4]<=[8]) {'a'}",
        "replica_groups=single_device[device_id=0] {}",
        "replica_groups={{0,1},{2,3,4}}",
        "replica_groups=[2,4]",
        "source_target_pairs={}",
        "dimensions={0}",
    ],
)
def test_a_form_that_is_not_known_is_an_error(written: str):
    with pytest.raises(ValueError, match=r"cannot read the devices of this collective: .*all-gather"):
        hlo.replica_groups(f"  %all = f32[8]{{0}} all-gather(%x), channel_id=1, {written}, dimensions={{0}}")


@pytest.mark.parametrize("axes", [("data",), ("fsdp",), ("tensor",), ("data", "fsdp"), ("data", "tensor")])
def test_the_groups_of_a_compiled_program_are_those_of_its_mesh(axes: tuple[str, ...]):
    shape = {"data": 2, "fsdp": 2, "tensor": 2}
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(tuple(shape.values())), tuple(shape))
    everywhere = PartitionSpec(tuple(shape))
    summed = jax.shard_map(lambda x: jax.lax.psum(x, axes), mesh=mesh, in_specs=everywhere, out_specs=everywhere)
    (found,) = hlo.collectives(jax.jit(summed).lower(np.zeros((8, 3), np.float32)).compile().as_text())
    assert (found.kind, found.bytes, found.count) == ("all-reduce", 12, 1)
    assert hlo.mesh_axes(found.groups, shape) == axes
    # Device i alone contributes 2^i, so that the sum names the devices of a group.
    (sums,) = jax.jit(summed)(2.0 ** np.arange(8)[:, None]).T.astype(int)
    assert {sum(2**i for i in group) for group in found.groups.tolist()} == set(sums.tolist())


def program(line: str) -> str:
    return f"""HloModule m

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %s = f32[] add(%a, %b)
}}

ENTRY %main (x: bf16[512,128], y: f32[]) -> f32[] {{
  %x = bf16[512,128]{{1,0}} parameter(0)
  %y = f32[]{{:T(128)}} parameter(1)
  {line}
}}
"""


GROUPS = "channel_id=1, replica_groups=mesh['data'=2,'fsdp'=8] {'fsdp'}"
PART, WHOLE = 512 * 128 * 2, 4096 * 128 * 2


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("%g = bf16[4096,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%x)", WHOLE),
        ("%g = (bf16[512,128]{1,0}, bf16[4096,128]{1,0}) all-gather-start(%x)", WHOLE),
        ("%g = ((bf16[512,128]{1,0}), bf16[4096,128]{1,0}) all-gather-start(%x)", WHOLE),
        ("%g = ((bf16[512,128]{1,0:T(8,128)}, f32[]), (bf16[4096,128]{1,0:T(8,128)}, f32[8]), u32[]{:S(2)}) "
         "all-gather-start(%x, %y)", WHOLE + 32),
        # Scalars are summed beside arrays: one number each.
        ("%g = (bf16[512,128]{1,0}, f32[]) all-reduce(%x, %y)", PART + 4),
        ("%g = (bf16[512,128]{1,0}, f32[]) all-reduce-start(%x, %y)", PART + 4),
        ("%g = ((bf16[512,128]{1,0}, f32[]), (bf16[512,128]{1,0}, f32[])) all-reduce-start(%x, %y)", PART + 4),
        ("%g = ((f32[]), f32[]) all-reduce-start(%y)", 4),
        ("%g = bf16[64,128]{1,0} reduce-scatter(%x)", PART),
        ("%g = ((bf16[512,128]{1,0}), bf16[64,128]{1,0}) reduce-scatter-start(%x)", PART),
        ("%g = ((bf16[512,128]{1,0}), bf16[512,128]{1,0}) all-to-all-start(%x)", PART),
        ("%g = (bf16[512,128]{1,0}, bf16[512,128]{1,0}, u32[], u32[]) collective-permute-start(%x)", PART),
    ],
)  # fmt: skip
def test_a_whole_tensor_counts_once_in_every_form_of_a_collective(line: str, size: int):
    (found,) = hlo.collectives(program(f"{line}, {GROUPS}"))
    assert found.bytes == size


def test_what_is_done_later_is_counted_where_it_starts():
    started = f"%s = ((bf16[512,128]{{1,0}}), bf16[4096,128]{{1,0}}) all-gather-start(%x), {GROUPS}, dimensions={{0}}"
    (found,) = hlo.collectives(program(started + "\n  %d = bf16[4096,128]{1,0} all-gather-done(%s)"))
    assert (found.kind, found.count) == ("all-gather", 1)


def test_a_type_of_unknown_size_is_an_error():
    with pytest.raises(ValueError, match="unknown size of XLA's type f4e2m1fn"):
        hlo.collectives(program(f"%g = f4e2m1fn[512,128]{{1,0}} all-gather(%x), {GROUPS}"))


def test_both_branches_of_a_condition_are_read():
    branches = "\n".join(
        f"""%{name} (x: f32[8]) -> f32[8] {{
  %x.{name} = f32[8]{{0}} parameter(0)
  ROOT %sum.{name} = f32[{size}]{{0}} all-reduce(%x.{name}), {GROUPS}, to_apply=%add
}}
"""
        for name, size in (("yes", 8), ("no", 16))
    )
    line = "%c = f32[8]{0} conditional(%p, %x, %x), true_computation=%yes, false_computation=%no"
    text = program(line).replace("ENTRY", f"{branches}\nENTRY")
    assert sorted(found.bytes for found in hlo.collectives(text)) == [32, 64]


def test_a_loop_that_does_not_count_up_to_a_constant_is_an_error():
    loop = "%w = (s32[]) while(%t), condition=%condition, body=%add"
    condition = """%condition (s: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %limit = s32[] constant(0)
  ROOT %more = pred[] compare(%i, %limit), direction=GT
}
"""
    with pytest.raises(ValueError, match=r"cannot read the trip count of loop w"):
        hlo.collectives(program(loop).replace("ENTRY", f"{condition}\nENTRY"))
