"""Communication of a compiled program, read from its HLO text and multiplied by the trip counts of its loops.

XLA's own `cost_analysis` counts the body of a loop only once. An example instruction from a program for a TPU:

  %all-gather.140 = bf16[4096,32,128] all-gather(%fusion), replica_groups={{0,1,2,3}}, dimensions={0}

Unknown forms of text raise ValueError, because a guess would silently give a wrong plan.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip
BYTES = {"token": 0, "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
         "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e3m4": 1, "f8e4m3": 1, "f8e4m3b11fnuz": 1,
         "f8e4m3fn": 1, "f8e4m3fnuz": 1, "f8e5m2": 1, "f8e5m2fnuz": 1, "f8e8m0fnu": 1}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(
    r"(?:calls|to_apply|body|called_computations|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
# The devices of a collective, in all forms that XLA prints.
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{\d+(?:,\d+)*\}(?:,\{\d+(?:,\d+)*\})*)\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>'[^']+'=\d+(?:,'[^']+'=\d+)*)\]"
    r"(?:, device_ids=\((?:\[(?P<source>[\d,]+)\]T\((?P<transpose>[\d,]+)\)|(?P<devices>[\d,]+))\))?"
    r" \{(?P<grouped>(?:'[^']+'(?::\(\d+\)\d+)?,?)*)\}"
)
# On TPUs, a collective that overlaps with a product is spread over a chain of fusions, each of which repeats it. Only
# the repetitions after the first match this pattern, so that the collective is counted once.
CHAINED = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')


@dataclass(frozen=True)
class Instruction:
    name: str
    result: str  # type of the result, as written
    operation: str
    operands: str
    line: str
    computation: str


@dataclass(frozen=True)
class Collective:
    kind: str
    shape: str  # shape of the whole tensor: the output of an all-gather, the input of a reduce-scatter
    bytes: int  # size of that tensor
    count: int  # executions per step
    groups: np.ndarray  # (groups, devices per group), positions in the mesh


Program = dict[str, list[Instruction]]


def parse(text: str) -> tuple[Program, str]:
    """The computations of a program, and the name of its entry computation."""
    program: Program = {}
    current, entry = "", ""
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head:
            current = head[2]
            program[current] = []
            entry = current if head[1] else entry
        elif line == "}":  # exactly: attributes of a kernel can span several lines
            current = ""
        elif current and (body := INSTRUCTION.match(line)):
            program[current].append(instruction(body[1], body[2], line, current))
    assert entry, "not the text of a compiled program"
    return program, entry


def instruction(name: str, rest: str, line: str, computation: str) -> Instruction:
    if rest.startswith("("):
        end = matching(rest, 0)
        result, rest = rest[: end + 1], rest[end + 2 :]
    else:
        result, _, rest = rest.partition(" ")
    operation, _, rest = rest.partition("(")
    return Instruction(name, result, operation, rest[: matching("(" + rest, 0) - 1], line, computation)


def matching(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def collectives(text: str) -> list[Collective]:
    """Every collective of a step, with the number of executions."""
    program, entry = parse(text)
    found: dict[tuple[str, str, bytes, tuple[int, ...]], Collective] = {}
    for current, trips in visits(program, entry):
        if current.operation.removesuffix("-start") not in KINDS or CHAINED.search(current.line):
            continue
        one = collective_of(current, program)
        # Arrays cannot be keys, so groups are stored as bytes and shape.
        key = (one.kind, one.shape, one.groups.tobytes(), one.groups.shape)
        before = found[key].count if key in found else 0
        found[key] = dataclasses.replace(one, count=before + trips)
    return list(found.values())


def collective_of(current: Instruction, program: Program) -> Collective:
    """One execution of a collective."""
    kind = current.operation.removesuffix("-start")
    tensors = whole_tensors(kind, current, program)
    if current.computation.startswith("all-reduce-scatter"):  # a TPU's reduce-scatter, which slices the sum at once
        kind = "reduce-scatter"
    shape = " ".join(f"{dtype}[{sizes}]" for dtype, sizes in tensors)
    size = sum(array_bytes(dtype, sizes) for dtype, sizes in tensors)
    return Collective(kind, shape, size, 1, replica_groups(current.line))


def visits(program: Program, computation: str, trips: int = 1) -> Iterator[tuple[Instruction, int]]:
    """Every instruction reachable from a computation, with its number of executions per step."""
    for current in program[computation]:
        yield current, trips
        inner = trips * trip_count(current, program) if current.operation == "while" else trips
        for called in CALLED.findall(current.line):
            for name in re.findall(r"[\w.\-]+", called):
                if name in program:
                    yield from visits(program, name, inner)


def trip_count(loop: Instruction, program: Program) -> int:
    """Trip count of a loop, from XLA's annotation or else from the comparison of the counter with a constant.

    Raises ValueError if there is neither.
    """
    noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line)
    if noted:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    assert condition, loop.line
    inside = [each for each, _ in visits(program, condition[1])]
    compared = [re.search(r"direction=(\w+)", each.line) for each in inside if each.operation == "compare"]
    constants = [re.search(r"constant\((\d+)\)", each.line) for each in inside if each.operation == "constant"]
    if [match and match[1] for match in compared] != ["LT"] or len(constants) != 1 or constants[0] is None:
        raise ValueError(f"cannot read the trip count of loop {loop.name}: {[each.line for each in inside]}")
    return int(constants[0][1])


def whole_tensors(kind: str, collective: Instruction, program: Program) -> list[tuple[str, str]]:
    """(dtype, shape) of each whole tensor of a collective, of which every device has all or a part."""
    if collective.operation.endswith("-start"):
        text = started(collective, kind)
    elif kind == "reduce-scatter":
        results = {other.name: other.result for others in program.values() for other in others}
        text = " ".join(results[name] for name in re.findall(r"%([\w.\-]+)", collective.operands))
    else:
        text = collective.result
    arrays = ARRAY.findall(text)
    if not arrays:
        raise ValueError(f"cannot read the tensors of this collective: {collective.line.strip()[:300]}")
    return arrays


def started(collective: Instruction, kind: str) -> str:
    """The types of the whole tensors of an asynchronous collective, whose type is (operands, results, context...).

    XLA's older all-reduce-start has only the type of its results, without inner parentheses.
    """
    if kind == "all-reduce" and not collective.result.startswith("(("):
        return collective.result
    operands = element(collective.result, 1)
    return operands if kind == "reduce-scatter" else element(collective.result, 1 + len(operands) + len(", "))


def element(types: str, start: int) -> str:
    """The element of a tuple type that starts at `start`: another tuple, or an array with its layout."""
    if types[start : start + 1] == "(":
        return types[start : matching(types, start) + 1]
    array = re.match(r"\w+\[[^\]]*\](?:\{[^}]*\})?", types[start:])
    if array is None:
        raise ValueError(f"cannot read operands and results of an asynchronous collective of type {types[:300]}")
    return array[0]


def array_bytes(dtype: str, shape: str) -> int:
    if dtype not in BYTES:
        raise ValueError(f"unknown size of XLA's type {dtype}, in an array {dtype}[{shape}]")
    return BYTES[dtype] * math.prod(integers(shape))


def integers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def replica_groups(line: str) -> np.ndarray:
    """Devices of a collective as (groups, devices per group), or (pairs, 2) for a permutation.

    The shape is (1, 0) if all devices form one group.
    """
    if mesh := MESH.search(line):
        return mesh_groups(mesh)
    if iota := IOTA.search(line):
        return iota_devices(iota[2], iota[3]).reshape(integers(iota[1]))
    if listed := LISTED.search(line):
        groups = [integers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        if len({len(group) for group in groups}) == 1:
            return np.array(groups, np.int64)
    if "replica_groups={}" in line:
        return np.zeros((1, 0), np.int64)
    raise ValueError(f"cannot read the devices of this collective: {line.strip()[:300]}")


def iota_devices(source: str, transpose: str | None) -> np.ndarray:
    """All devices in order, in an array of shape `source`, such as `4,2`, transposed by `transpose`, such as `1,0`."""
    shape = integers(source)
    devices = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return devices.transpose(integers(transpose)) if transpose else devices


def mesh_groups(mesh: re.Match[str]) -> np.ndarray:
    """Groups along axes of a mesh, in the notation of MeshAxesReplicaGroupList in XLA's replica_group.cc.

    `mesh['data'=2,'fsdp'=4] {'fsdp'}` means {{0,1,2,3},{4,5,6,7}}. `'fsdp':(2)2` is a part of an axis: it has 2
    values, and the parts to its left have 2 values together. `, device_ids=([4,2]T(1,0))` or `device_ids=(0,2,1,3)`
    before the axes gives the order of the devices in the mesh if they are not in ascending order.
    """
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh["axes"])}
    parts = [
        (name, int(before or 1), int(size or axes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh["grouped"])
    ]
    # Split the axes where their parts begin and end, so that each part is one dimension.
    shape: list[int] = []
    dimension: dict[tuple[str, int], int] = {}
    for name, size in axes.items():
        edges = {edge for other, before, n in parts if other == name for edge in (before, before * n)}
        for begin, end in itertools.pairwise(sorted({1, size} | edges)):
            dimension[name, begin] = len(shape)
            shape.append(end // begin)
    grouped = [dimension[name, before] for name, before, n in parts if n > 1]
    separate = [d for d in range(len(shape)) if d not in grouped]
    if mesh["devices"]:
        devices = np.array(integers(mesh["devices"]), np.int64)
    else:
        devices = iota_devices(mesh["source"] or str(math.prod(shape)), mesh["transpose"])
    in_order = devices.reshape(shape).transpose(separate + grouped)
    return in_order.reshape(-1, math.prod(shape[d] for d in grouped))


def mesh_axes(groups: np.ndarray, shape: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    if groups.size == 0:
        return tuple(axis for axis, size in shape.items() if size > 1)
    places = np.stack(np.unravel_index(groups, tuple(shape.values())))  # (axes, groups, devices)
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, moves in zip(shape, differ, strict=True) if moves)


def buffer_shapes(text: str) -> set[tuple[int, ...]]:
    """The shapes of all arrays in the program, without dimensions of size 1."""
    return {tuple(int(n) for n in shape.split(",") if n not in ("", "1")) for _, shape in ARRAY.findall(text)}
