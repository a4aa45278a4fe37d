"""What a compiled program sends between devices, read from its text with the trips of its loops counted.

XLA's own `cost_analysis` counts a loop's body once. An example of what is read, from a program for a TPU:

  %all-gather.140 = bf16[4096,32,128] all-gather(%fusion), replica_groups={{0,1,2,3}}, dimensions={0}
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
         "s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(
    r"(?:calls|to_apply|body|called_computations|branch_computations)=\{?(%?[\w.\-]+(?:, ?%?[\w.\-]+)*)\}?"
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
            for name in re.split(r", ?", called):
                if name.lstrip("%") in program:
                    yield from visits(program, name.lstrip("%"), inner)


def trip_count(loop: Instruction, program: Program) -> int:
    """From XLA's own note where it stands, else from the comparison of the counter with a constant."""
    noted = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line)
    if noted:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    assert condition, loop.line
    constants = [
        int(found[1])
        for one, _ in visits(program, condition[1])
        if one.operation == "constant" and (found := re.search(r"constant\((\d+)\)", one.line))
    ]
    if len(constants) != 1:
        raise ValueError(f"the trips of loop {loop.name} are not written in its condition: {constants}")
    return constants[0]


def whole_tensors(kind: str, one: Instruction, program: Program) -> list[tuple[str, str]]:
    """(dtype, shape) of each tensor of which every device has all or a part."""
    results = ARRAY.findall(one.result)
    if one.operation.endswith("-start"):  # (operands, results, context)
        half = [array for array in results if array[1]] or results
        results = half[: len(half) // 2] if kind == "reduce-scatter" else half[-(len(half) // 2) :] or half
        if kind == "all-reduce":
            results = ARRAY.findall(one.result)
        return results
    if kind == "reduce-scatter":
        names = {other.name: other.result for others in program.values() for other in others}
        return [array for name in re.findall(r"%([\w.\-]+)", one.operands) for array in ARRAY.findall(names[name])]
    return results


def array_bytes(dtype: str, shape: str) -> int:
    return BYTES.get(dtype, 0) * int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))


def replica_groups(line: str) -> np.ndarray:
    """(groups, devices): written out, or as an array of all devices that is reshaped and transposed."""
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        shape, source = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
        devices = np.arange(np.prod(source)).reshape(source)
        if iota[3]:
            devices = devices.transpose([int(n) for n in iota[3].split(",")])
        return devices.reshape(shape).astype(np.int64)
    listed = re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line)
    if listed:
        return np.array(
            [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])], np.int64
        )
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", line)
    if pairs:
        return np.array([[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])], np.int64)
    return np.zeros((1, 0), np.int64)


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
