"""Reading and writing of safetensors files.

A file consists of eight bytes with the length of the header, a JSON header with the type, shape and offsets of each
tensor, and the bytes of all tensors end to end.

    {"model.norm.weight": {"dtype": "BF16", "shape": [4096], "data_offsets": [0, 8192]}, ...}

The header is checked before any tensor is read, because wrong offsets would yield wrong weights. The package
`safetensors` is not used here: it keeps the pages of everything it has read mapped until the file is closed (782 MB of
an 805 MB file), and these are counted as memory of the process; `Tensors.release` gives each tensor's pages back.
"""

import json
import math
import mmap
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
# Old LLaMA folders contain the rotary frequencies of every layer, in any type. transformers computes them, as we do.
IGNORED = "rotary_emb.inv_freq"
LARGEST_HEADER = 100_000_000  # bytes, as in the package `safetensors`
MOST_AXES = 8
INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"


class FolderError(ValueError):
    """A Hugging Face folder that is damaged or does not match the model. The message lists the differences."""


def shown(value: Any) -> str:
    """A foreign value for a message: on one line, and shortened if it is long or nested."""
    return reprlib.repr(value)


def shown_name(name: str) -> str:
    """A foreign name for a message, quoted only where it has characters that would break the line."""
    return name if name.isprintable() and len(name) <= 100 else shown(name)


def is_ignored(name: str) -> bool:
    return IGNORED in name


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Place:
    """The location of a tensor: a memory-mapped file and a range of its bytes."""

    file: mmap.mmap
    start: int
    end: int

    def advise(self, advice: int) -> None:
        first = self.start - self.start % mmap.PAGESIZE
        self.file.madvise(advice, first, self.end - first)


class Tensors(dict[str, np.ndarray]):
    """The tensors of a folder by name, memory-mapped, so that only indexed bytes are read."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def fetch(self, name: str) -> np.ndarray:
        """Return a tensor that is about to be read in full, and start reading it ahead."""
        self.places[name].advise(mmap.MADV_WILLNEED)
        return self[name]

    def rename(self, name: str, new_name: str) -> None:
        self[new_name], self.places[new_name] = self.pop(name), self.places.pop(name)

    def split(self, name: str, parts: dict[str, int]) -> None:
        """Replace a tensor by parts of its rows: names and their numbers of rows, in order."""
        tensor, place = self.pop(name), self.places.pop(name)
        row_bytes, first = tensor.nbytes // max(len(tensor), 1), 0
        for part, rows in parts.items():
            start = place.start + first * row_bytes
            self[part], self.places[part] = (
                tensor[first : first + rows],
                Place(place.file, start, start + rows * row_bytes),
            )
            first += rows

    def release(self, name: str) -> None:
        """Release the memory taken by reading a tensor, since mapped pages count towards this process."""
        self.places[name].advise(mmap.MADV_DONTNEED)


def open_folder(folder: Path) -> Tensors:
    """Map every tensor of a folder's safetensors files.

    Raises FolderError if a file is missing or damaged, or its tensors do not match the index.
    """
    if not (folder / INDEX).is_file():
        if not (folder / ONE_FILE).is_file():
            raise FolderError(f"{folder} contains neither {ONE_FILE} nor {INDEX}{other_format(folder)}")
        return open_safetensors(folder / ONE_FILE)
    weight_map = read_json(folder / INDEX, ("weight_map",))["weight_map"]
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FolderError(f"{folder / INDEX}: weight_map must map tensors to files")
    if (folder / ONE_FILE).is_file() and ONE_FILE not in weight_map.values():  # transformers would read the one file
        raise FolderError(
            f"{folder} contains {ONE_FILE} and an {INDEX} of other files: remove the one that is left of another model"
        )
    # Only names of files in the folder: an index must not make anything else on this machine readable.
    present = {path.name for path in folder.iterdir() if path.is_file()}
    tensors = Tensors()
    for file in sorted(set(weight_map.values())):
        if file not in present:
            raise FolderError(f"{folder / INDEX} names {shown_name(file)}, which is missing: copy it into the folder")
        found = open_safetensors(folder / file)
        named = {name for name, where in weight_map.items() if where == file and not is_ignored(name)}
        if named != found.keys():
            absent, extra = sorted(named - found.keys()), sorted(found.keys() - named)
            problems = [f"lacks {shown_name(absent[0])}, which the index lists there"] if absent else []
            problems += [f"contains {shown_name(extra[0])}, which the index does not list there"] if extra else []
            raise FolderError(
                f"{folder / file} {' and '.join(problems)} ({len(absent) + len(extra)} tensors differ): download the "
                "folder again"
            )
        tensors.update(found)
        tensors.places.update(found.places)
    return tensors


def other_format(folder: Path) -> str:
    """Advice for a folder that holds something else than the weights of a model, or "" if nothing is known."""
    if (folder / "adapter_config.json").is_file():
        return ": it holds adapters alone; merge them into their base with peft's merge_and_unload, and import that"
    if any(folder.glob("*.gguf")):
        return ": it holds a GGUF file, whose weights are quantised; import the folder that it was made from"
    if parts := sorted(path.name for path in folder.glob("*.safetensors")):
        return f", but {parts[0]}: download the folder again, or save it with transformers' save_pretrained"
    pickles = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if not pickles:
        return ": download the folder again"
    call = "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)"
    return (
        f"; {pickles[0]} is a pickle, which can run code: if you trust it, convert it with transformers' {call} and "
        "import NEW"
    )


def read_json(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON object. Raises FolderError if it is not JSON or lacks a required key."""
    raw = parse_json(path.read_bytes(), f"{path} is not JSON", "it")
    if missing := [key for key in required if key not in raw]:
        raise FolderError(f"{path} is missing {', '.join(missing)}")
    return raw


def parse_json(content: bytes, refusal: str, subject: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, strictly: NaN is no JSON, and of two equal keys none can be the right one.

    Raises FolderError, whose message begins with `refusal` and calls the content `subject`.
    """
    try:
        raw = json.loads(content.decode(), object_pairs_hook=unique_keys, parse_constant=no_constant)
    except RecursionError:
        raise FolderError(f"{refusal}: {subject} is nested too deeply") from None
    except ValueError as error:
        raise FolderError(f"{refusal}: {error}") from error
    if not isinstance(raw, dict):
        raise FolderError(f"{refusal}: {subject} is not a JSON object")
    return raw


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{shown_name(twice)} occurs twice")
    return found


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def open_safetensors(path: Path) -> Tensors:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise FolderError(f"{path} is not a safetensors file or is truncated: its header would have {length} bytes")
        if length > LARGEST_HEADER:
            raise FolderError(f"{path} is not a safetensors file: its header would have {length} bytes")
        header = parse_json(file.read(length), f"{path} is not a safetensors file", "its header")
        header.pop("__metadata__", None)
        check_header(header, path, size - 8 - length)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = Tensors()
    for name, entry in header.items():
        if is_ignored(name):
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(mapped, np.uint8)[start:end]
        tensors[name] = raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors.places[name] = Place(mapped, start, end)
    return tensors


def check_header(header: dict[str, Any], path: Path, data_bytes: int) -> None:
    """Check that every entry is complete, of a known type and as long as its shape requires.

    The tensors must also follow one another without gaps up to the end of the file. Raises FolderError otherwise.
    """
    places = []
    for name, entry in header.items():
        complete = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= entry.keys()
        if not complete or not are_sizes(entry["shape"]) or not are_sizes(entry["data_offsets"]):
            raise FolderError(f"{path}: {shown_name(name)} has no valid dtype, shape or data_offsets: {damaged(path)}")
        start, end = (*entry["data_offsets"], 0, 0)[:2]
        places.append((start, end, shown_name(name)))
        if is_ignored(name):
            continue
        dtype = str(entry["dtype"])
        if dtype not in DTYPES:
            raise FolderError(
                f"{path}: {shown_name(name)} is {shown_name(dtype)}, not one of {', '.join(DTYPES)}: convert it to one "
                "of these"
            )
        needed = math.prod(entry["shape"]) * DTYPES[dtype].itemsize
        if len(entry["data_offsets"]) != 2 or end - start != needed:
            raise FolderError(
                f"{path}: {shown_name(name)} of shape {shown(entry['shape'])} in {dtype} needs {shown(needed)} bytes, "
                f"but its offsets are {shown(entry['data_offsets'])}: {damaged(path)}"
            )
    reached = 0
    for start, end, name in sorted(places):
        if start != reached:
            problem = "overlaps the tensor before it" if start < reached else "leaves a gap before it"
            raise FolderError(f"{path}: {name} {problem} (starts at {start}, not {reached}): {damaged(path)}")
        reached = end
    if reached > data_bytes:
        raise FolderError(f"{path} is truncated: {reached - data_bytes} bytes are missing; download it again")
    if reached < data_bytes:
        raise FolderError(f"{path} has {data_bytes - reached} bytes that belong to no tensor: {damaged(path)}")


def are_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_AXES and all(type(n) is int and 0 <= n < 2**63 for n in value)


def damaged(path: Path) -> str:
    return f"download or export {path.name} again"


# ---------------------------------------------------------------- writing


def stored_name(name: str) -> str:
    """The tensor of a file that holds a part called `name`: "mlp.gate_up_proj.weight[mlp.up_DF]" is of the first."""
    return name.partition("[")[0]


def plan_shards(sizes: dict[str, int], max_bytes: int) -> dict[str, list[str]]:
    """Assign tensors to files in order: {file name: tensor names}.

    No file exceeds `max_bytes`, unless a single tensor does. Parts of a tensor stay together.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and "[" in name and stored_name(shards[-1][-1]) == stored_name(name):
            shards[-1].append(name)
            filled += size
            continue
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {ONE_FILE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}


def lay_out(path: Path, shapes: dict[str, tuple[int, ...]], code: str) -> dict[str, int]:
    """Create a safetensors file with a header and room for every tensor. Returns the byte offset of each tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts = {}
    end = 0
    for name, shape in shapes.items():
        starts[name] = end
        end += math.prod(shape) * DTYPES[code].itemsize
        entry = header.setdefault(stored_name(name), {"dtype": code, "shape": [], "data_offsets": [starts[name], end]})
        rows = entry["shape"][0] + shape[0] if entry["shape"] else None  # a further part of a tensor
        entry["shape"] = list(shape) if rows is None else [rows, *shape[1:]]
        entry["data_offsets"][1] = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + start for name, start in starts.items()}


def write_index(folder: Path, shards: dict[str, list[str]], total_bytes: int) -> None:
    """Write the index that maps tensors to files. A single file needs no index."""
    if len(shards) > 1:
        weight_map = {stored_name(name): file for file, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
