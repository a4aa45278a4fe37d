"""What a compiled program sends between devices, read from its text with the trips of its loops counted.

XLA's own `cost_analysis` counts a loop's body once. An example of what is read, from a program for a TPU:

  %all-gather.140 = bf16[4096,32,128] all-gather(%fusion), replica_groups={{0,1,2,3}}, dimensions={0}

Text of a form that is not known raises ValueError: a guess would be a wrong plan without a word.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
         "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e3m4": 1, "f8e4m3": 1, "f8e4m3b11fnuz": 1,
         "f8e4m3fn": 1, "f8e4m3fnuz": 1, "f8e5m2": 1, "f8e5m2fnuz": 1, "f8e8m0fnu": 1}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(
    r"(?:calls|to_apply|body|called_computations|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
# The devices of a collective, in each form that XLA prints.
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{\d+(?:,\d+)*\}(?:,\{\d+(?:,\d+)*\})*)\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>'[^']+'=\d+(?:,'[^']+'=\d+)*)\]"
    r"(?:, device_ids=\((?:\[(?P<source>[\d,]+)\]T\((?P<transpose>[\d,]+)\)|(?P<devices>[\d,]+))\))?"
    r" \{(?P<grouped>(?:'[^']+'(?::\(\d+\)\d+)?,?)*)\}"
)
# On TPU a collective that hides behind a product is spread over a chain of fusions, each of which repeats it; the
# first one has no place in the chain yet.
CHAINED = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')


@dataclass(frozen=True)
class Instruction:
    name: str
    result: str  # its type, as written
    operation: str
    operands: str
    line: str


@dataclass(frozen=True)
class Collective:
    kind: str
    shape: str  # of the whole tensor: what an all-gather makes, what a reduce-scatter takes
    bytes: int  # of that tensor, once
    count: int  # a step
    groups: np.ndarray  # (groups, devices of one), positions in the mesh


Program = dict[str, list[Instruction]]


def parse(text: str) -> tuple[Program, str]:
    """The computations of a program and the name of the one that it starts with."""
    program: Program = {}
    current, entry = "", ""
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head:
            current = head[2]
            program[current] = []
            entry = current if head[1] else entry
        elif line == "}":  # alone: the attributes of a kernel may run over several lines
            current = ""
        elif current and (body := INSTRUCTION.match(line)):
            program[current].append(instruction(body[1], body[2], line))
    assert entry, "not the text of a compiled program"
    return program, entry


def instruction(name: str, rest: str, line: str) -> Instruction:
    if rest.startswith("("):
        end = matching(rest, 0)
        result, rest = rest[: end + 1], rest[end + 2 :]
    else:
        result, _, rest = rest.partition(" ")
    operation, _, rest = rest.partition("(")
    return Instruction(name, result, operation, rest[: matching("(" + rest, 0) - 1], line)


def matching(text: str, start: int) -> int:
    """Where the parenthesis at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def collectives(text: str) -> list[Collective]:
    """Every collective that a step carries out, with how often."""
    program, entry = parse(text)
    totals: dict[tuple[str, str, bytes, tuple[int, ...]], int] = defaultdict(int)
    sizes: dict[tuple[str, str, bytes, tuple[int, ...]], int] = {}
    for one, trips in visits(program, entry):
        kind = one.operation.removesuffix("-start")
        if kind not in KINDS or CHAINED.search(one.line):
            continue
        whole = whole_tensors(kind, one, program)
        groups = replica_groups(one.line)
        key = (kind, " ".join(f"{dtype}[{shape}]" for dtype, shape in whole), groups.tobytes(), groups.shape)
        totals[key] += trips
        sizes[key] = sum(array_bytes(dtype, shape) for dtype, shape in whole)
    return [
        Collective(kind, shape, sizes[key], count, np.frombuffer(groups, np.int64).reshape(form))
        for key, count in totals.items()
        for kind, shape, groups, form in [key]
    ]


def visits(program: Program, computation: str, trips: int = 1) -> Iterator[tuple[Instruction, int]]:
    """Every instruction that is reached from a computation, with how often a step carries it out."""
    for one in program[computation]:
        yield one, trips
        inner = trips * trip_count(one, program) if one.operation == "while" else trips
        for called in CALLED.findall(one.line):
            for name in re.findall(r"[\w.\-]+", called):
                if name in program:
                    yield from visits(program, name, inner)


def trip_count(loop: Instruction, program: Program) -> int:
    """From XLA's own note where it stands, else from the comparison of the counter with a constant."""
    noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line)
    if noted:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    assert condition, loop.line
    inside = [one for one, _ in visits(program, condition[1])]
    compared = [re.search(r"direction=(\w+)", one.line) for one in inside if one.operation == "compare"]
    constants = [re.search(r"constant\((\d+)\)", one.line) for one in inside if one.operation == "constant"]
    if [found and found[1] for found in compared] != ["LT"] or len(constants) != 1 or constants[0] is None:
        raise ValueError(f"the trips of loop {loop.name} are not written in its condition: {[o.line for o in inside]}")
    return int(constants[0][1])


def whole_tensors(kind: str, one: Instruction, program: Program) -> list[tuple[str, str]]:
    """(dtype, shape) of each tensor of which every device has all or a part."""
    if one.operation.endswith("-start"):
        text = started(one, kind)
    elif kind == "reduce-scatter":
        results = {other.name: other.result for others in program.values() for other in others}
        text = " ".join(results[name] for name in re.findall(r"%([\w.\-]+)", one.operands))
    else:
        text = one.result
    arrays = ARRAY.findall(text)
    if not arrays:
        raise ValueError(f"the tensors of this collective are not read: {one.line.strip()[:300]}")
    return arrays


def started(one: Instruction, kind: str) -> str:
    """The types of the whole tensors of an asynchronous collective, whose own is (operands, results, context...).

    XLA once had an all-reduce-start of its own, whose type is that of its results, with no parenthesis inside.
    """
    if kind == "all-reduce" and not one.result.startswith("(("):
        return one.result
    operands = element(one.result, 1)
    return operands if kind == "reduce-scatter" else element(one.result, 1 + len(operands) + len(", "))


def element(types: str, start: int) -> str:
    """The element of a tuple's type that begins at `start`: another tuple, or an array with its layout."""
    if types[start : start + 1] == "(":
        return types[start : matching(types, start) + 1]
    array = re.match(r"\w+\[[^\]]*\](?:\{[^}]*\})?", types[start:])
    if array is None:
        raise ValueError(f"no operands and results in the type of an asynchronous collective: {types[:300]}")
    return array[0]


def array_bytes(dtype: str, shape: str) -> int:
    if dtype not in BYTES:
        raise ValueError(f"the size of XLA's type {dtype} is not known, of an array {dtype}[{shape}]")
    return BYTES[dtype] * math.prod(integers(shape))


def integers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def replica_groups(line: str) -> np.ndarray:
    """(groups, devices of one), or (pairs, 2) of a permutation; (1, 0) where all devices are one group."""
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
    raise ValueError(f"the devices of this collective are not read: {line.strip()[:300]}")


def iota_devices(source: str, transpose: str | None) -> np.ndarray:
    """All devices in order, as an array of a shape `4,2` whose dimensions are then transposed, as `1,0`."""
    shape = integers(source)
    devices = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return devices.transpose(integers(transpose)) if transpose else devices


def mesh_groups(mesh: re.Match[str]) -> np.ndarray:
    """Groups along axes of a mesh, as MeshAxesReplicaGroupList in XLA's replica_group.cc has them.

    `mesh['data'=2,'fsdp'=4] {'fsdp'}` is {{0,1,2,3},{4,5,6,7}}. `'fsdp':(2)2` is a part of an axis: the places that
    are left of it have 2 values together, it has 2. `, device_ids=([4,2]T(1,0))` or `device_ids=(0,2,1,3)` before the
    axes is the order of the devices in the mesh, where they are not simply counted.
    """
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh["axes"])}
    parts = [
        (name, int(before or 1), int(size or axes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh["grouped"])
    ]
    # Axes are cut where their parts begin and end, so that each part is one dimension.
    shape: list[int] = []
    dimension: dict[tuple[str, int], int] = {}
    for name, size in axes.items():
        edges = {edge for other, before, n in parts if other == name for edge in (before, before * n)}
        for begin, end in itertools.pairwise(sorted({1, size} | edges)):
            dimension[name, begin] = len(shape)
            shape.append(end // begin)
    grouped = [dimension[name, before] for name, before, n in parts if n > 1]
    alone = [d for d in range(len(shape)) if d not in grouped]
    if mesh["devices"]:
        devices = np.array(integers(mesh["devices"]), np.int64)
    else:
        devices = iota_devices(mesh["source"] or str(math.prod(shape)), mesh["transpose"])
    in_order = devices.reshape(shape).transpose(alone + grouped)
    return in_order.reshape(-1, math.prod(shape[d] for d in grouped))


def mesh_axes(groups: np.ndarray, shape: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    if groups.size == 0:
        return tuple(axis for axis, size in shape.items() if size > 1)
    places = np.stack(np.unravel_index(groups, tuple(shape.values())))  # (axes, groups, devices)
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, moves in zip(shape, differ, strict=True) if moves)


def buffer_shapes(text: str) -> set[tuple[int, ...]]:
    """The shape of every array that the program names, sides of 1 left out."""
    return {tuple(int(n) for n in shape.split(",") if n not in ("", "1")) for _, shape in ARRAY.findall(text)}
