"""The time that a device waits for communication, read from the schedule of a compiled program.

The instructions of a compiled computation are printed in the order in which a device runs them. On GPUs a collective
runs between its start and its done, beside the instructions in between. On TPUs it runs inside the products between
them that repeat it, as `hlo.CHAINED` describes. All others are waited for. How long an instruction takes is a roofline:
the longer of its FLOPs at the speed of products and of its bytes at the speed of memory.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from asclepius_jax.plan import hlo
from asclepius_jax.plan.hlo import Collective, Instruction

# Instructions that move no data, or whose copies are made in the background.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all",
        "opt-barrier", "iota", "copy-start", "copy-done"}  # fmt: skip
KERNELS = ("tpu_custom_call", "__cudnn$fmha")  # of attention; these have no FLOPs in the text
PRODUCTS = ("dot", "convolution")
NAME = re.compile(r"%([\w.\-]+)")
PLACED = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")  # an array with its layout
CHAIN = re.compile(r"channel_id=(\d+).*chain_id=\"(\d+)\"")


@dataclass(frozen=True)
class Rates:
    """Speeds of a device."""

    products: float  # FLOP/s
    memory: float  # bytes/s
    attention: tuple[float, float]  # FLOPs of one call of the forward kernel and of the backward kernel
    collective: Callable[[Collective], float]  # seconds of one execution


@dataclass
class Communication:
    """Seconds per step of all executions of a collective."""

    collective: Collective
    seconds: float = 0.0
    exposed: float = 0.0  # of these, the seconds in which the device waits


def communication(text: str, rates: Rates) -> list[Communication]:
    """Every collective of a step, and how long a device waits for it."""
    program, entry = hlo.parse(text)
    device = Device(program, rates)
    device.run(entry, 1)
    return list(device.found.values())


class Device:
    """A device that computes on one queue and communicates on another one."""

    def __init__(self, program: hlo.Program, rates: Rates):
        self.program, self.rates = program, rates
        self.results = {each.name: each.result for others in program.values() for each in others}
        self.found: dict[str, Communication] = {}

    def run(self, computation: str, times: int) -> float:
        """Seconds of a computation that runs `times` times per step."""
        now = 0.0  # when the next instruction begins
        queue: list[tuple[float, float, Communication]] = []  # begin and end of what has the links, one after another
        ends: dict[str, float] = {}  # of what was started
        left: dict[str, tuple[Communication, float]] = {}  # seconds of what runs inside of products

        def begin(entry: Communication, seconds: float) -> float:
            free = max(now, queue[-1][1] if queue else 0.0)
            queue.append((free, free + seconds, entry))
            return free + seconds

        def wait(until: float) -> None:
            nonlocal now
            for begun, end, entry in queue:
                entry.exposed += times * max(0.0, min(end, until) - max(begun, now))
            now = max(now, until)

        for current in self.program[computation]:
            if current.operation == "while":
                trips = hlo.trip_count(current, self.program)
                now += trips * self.run(called(current, "body"), trips * times)
            elif current.operation == "conditional":
                now += max(self.run(name, times) for name in branches(current, self.program))
            elif current.operation.endswith("-done") and operand(current) in ends:
                wait(ends.pop(operand(current)))
            elif (inside := self.collective_of(current)) is None:
                now += self.seconds(current)
            else:
                chain = CHAIN.search(inside.line)
                name = "/".join(chain.groups()) if chain else ""
                if name in left:  # a further part of a chain
                    entry, rest = left.pop(name)
                    if self.holds(current, "AsyncCollectiveDone"):
                        wait(begin(entry, max(0.0, rest)))
                    else:
                        took = self.seconds(current)
                        now += took
                        left[name] = entry, rest - took
                    continue
                entry, seconds = self.entry(inside, times)
                if self.holds(current, "AsyncCollectiveStart"):
                    left[name] = entry, seconds
                elif current.operation.endswith("-start"):
                    ends[current.name] = begin(entry, seconds)
                else:
                    wait(begin(entry, seconds))
        return now

    def entry(self, instruction: Instruction, times: int) -> tuple[Communication, float]:
        """The record of a collective, and the seconds of one execution, `times` of which are added to it."""
        collective = hlo.collective_of(instruction, self.program)
        seconds = self.rates.collective(collective)
        entry = self.found.setdefault(instruction.name, Communication(collective))
        entry.seconds += times * seconds
        return entry, seconds

    def collective_of(self, instruction: Instruction) -> Instruction | None:
        """The collective that an instruction is or holds."""
        if instruction.operation.removesuffix("-start") in hlo.KINDS:
            return instruction
        if instruction.operation not in ("fusion", "async-start", "call", "call-start"):
            return None
        inside = (each for each, _ in hlo.visits(self.program, called(instruction)))
        return next((each for each in inside if each.operation in hlo.KINDS), None)

    def holds(self, instruction: Instruction, target: str) -> bool:
        return instruction.operation == "fusion" and any(
            f'custom_call_target="{target}"' in each.line for each in self.program[called(instruction)]
        )

    # ------------------------------------------------------------ the time of one instruction

    def seconds(self, instruction: Instruction) -> float:
        if instruction.operation in FREE or instruction.operation.endswith(("-start", "-done")):
            return 0.0
        target = re.search(r'custom_call_target="([^"]*)"', instruction.line)
        kernel = target is not None and target[1].startswith(KERNELS)
        if target and not kernel and not target[1].startswith("__"):
            return 0.0  # a remark for the compiler
        backward = "Backward" in instruction.line or "_dkv" in instruction.name
        flops = self.rates.attention[backward] if kernel else self.flops(instruction)
        return max(flops / self.rates.products, self.bytes(instruction) / self.rates.memory)

    def flops(self, instruction: Instruction) -> float:
        """FLOPs of the matrix products of an instruction. Those in eight bits count half, as they take half as long."""
        if instruction.operation in PRODUCTS or "__cublas" in instruction.line:
            # The sizes of operands and result are B M K, B K N and B M N, with B the dimensions that all of them have.
            sizes = [elements(self.results[name]) for name in NAME.findall(instruction.operands)[:2]]
            batch = math.prod(batch_sizes(instruction, self.results))
            flops = 2 * math.sqrt(math.prod(sizes) * elements(instruction.result) / batch)
            return flops / 2 if bytes_per_element(instruction, self.results) == 1 else flops
        if instruction.operation not in ("fusion", "call"):
            return 0.0
        return sum(self.flops(each) for each in self.program[called(instruction)])

    def bytes(self, instruction: Instruction) -> float:
        """Bytes that an instruction reads from memory and writes to it."""
        names, written = NAME.findall(instruction.operands), in_memory(instruction.result)
        if instruction.operation == "dynamic-slice":
            return 2 * written
        if instruction.operation == "dynamic-update-slice":
            return 2 * in_memory(self.results[names[1]])
        if instruction.operation not in ("fusion", "call"):
            return written + sum(in_memory(self.results[name]) for name in names)
        inside = self.program[called(instruction)]
        for each in inside:  # what is updated in place is written only where it changes
            if each.operation == "dynamic-update-slice" and in_memory(each.result) <= written:
                changed = in_memory(self.results[NAME.findall(each.operands)[1]])
                written += changed - in_memory(each.result)
        return written + sum(self.read(called(instruction), place) for place in range(len(names)))

    def read(self, computation: str, place: int) -> float:
        """Bytes that a computation reads of its parameter `place`, of which it may need slices only."""
        inside = self.program[computation]
        given = next(each for each in inside if each.operation == "parameter" and each.operands == str(place))
        names, total = [given.name], 0.0
        for each in inside:  # in order, so that what is another view of the parameter is met before its users
            operands = NAME.findall(each.operands)
            if not set(names) & set(operands):
                continue
            if each.operation == "bitcast":
                names.append(each.name)
            elif each.operation in ("dynamic-slice", "slice", "gather") and operands[0] in names:
                total += sum(size for size, _ in arrays(each.result))
            elif each.operation == "fusion":
                total += sum(self.read(called(each), at) for at, name in enumerate(operands) if name in names)
            elif each.operation != "dynamic-update-slice" or operands[0] not in names:
                return in_memory(given.result)
        return min(total, in_memory(given.result))


def called(instruction: Instruction, how: str = "calls|to_apply") -> str:
    found = re.search(rf"\b(?:{how})=%?([\w.\-]+)", instruction.line)
    assert found, instruction.line
    return found[1]


def branches(instruction: Instruction, program: hlo.Program) -> list[str]:
    found = [name for group in hlo.CALLED.findall(instruction.line) for name in re.findall(r"[\w.\-]+", group)]
    return [name for name in found if name in program]


def operand(instruction: Instruction) -> str:
    return (NAME.findall(instruction.operands) or [""])[0]


def arrays(types: str) -> list[tuple[float, bool]]:
    """Bytes of each array of a type, and whether it is in memory and not on the chip."""
    return [(hlo.array_bytes(dtype, shape), "S(1)" not in layout) for dtype, shape, layout in PLACED.findall(types)]


def in_memory(types: str) -> float:
    return sum(size for size, memory in arrays(types) if memory)


def elements(types: str) -> float:
    _, shape, _ = PLACED.findall(types)[0]
    return math.prod(hlo.integers(shape))


def bytes_per_element(instruction: Instruction, results: dict[str, str]) -> int:
    """Bytes of an element of the widest of a product's two operands."""
    types = [results[name] for name in NAME.findall(instruction.operands)[:2]]
    return max(hlo.BYTES[PLACED.findall(each)[0][0]] for each in types)


def batch_sizes(instruction: Instruction, results: dict[str, str]) -> list[int]:
    """Sizes of the dimensions that operands and result of a product share."""
    batch = re.search(r"lhs_batch_dims=\{([\d,]+)\}", instruction.line)
    if batch is None:
        return []
    _, shape, _ = PLACED.findall(results[operand(instruction)])[0]
    return [hlo.integers(shape)[d] for d in hlo.integers(batch[1])]
