"""Safetensors files: eight bytes with the length of a header, a JSON header with each tensor's type, shape and place,
and the tensors' bytes end to end.

    {"model.norm.weight": {"dtype": "BF16", "shape": [4096], "data_offsets": [0, 8192]}, ...}

What is read is checked first, for a wrong place would be read as weights.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"


class FolderError(ValueError):
    """A Hugging Face folder that is not this model; the message lists what differs."""


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: a mapped file and a range of its bytes."""

    file: mmap.mmap
    start: int
    end: int

    def advise(self, advice: int) -> None:
        first = self.start - self.start % mmap.PAGESIZE
        self.file.madvise(advice, first, self.end - first)


class Tensors(dict[str, np.ndarray]):
    """A folder's tensors by name, mapped into memory: bytes are read where they are indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def fetch(self, name: str) -> np.ndarray:
        """A tensor that is about to be read whole: the disk begins at once."""
        self.places[name].advise(mmap.MADV_WILLNEED)
        return self[name]

    def release(self, name: str) -> None:
        """Let go of the memory that reading a tensor took: mapped pages count as this process's own."""
        self.places[name].advise(mmap.MADV_DONTNEED)


def open_folder(folder: Path) -> Tensors:
    """Every tensor of a folder's safetensors files, each in the file that the index names."""
    if not (folder / INDEX).is_file():
        if not (folder / ONE_FILE).is_file():
            raise FolderError(f"{folder} has no {ONE_FILE} and no index of shards{pickle_hint(folder)}")
        return open_safetensors(folder / ONE_FILE)
    weight_map = read_json(folder / INDEX, ("weight_map",))["weight_map"]
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FolderError(f"{folder / INDEX}: weight_map must map tensors to files")
    tensors = Tensors()
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise FolderError(f"{folder / INDEX} names {file}, which is missing: copy it into the folder")
        found = open_safetensors(folder / file)
        named = {name for name, where in weight_map.items() if where == file}
        if named != found.keys():
            absent, extra = sorted(named - found.keys()), sorted(found.keys() - named)
            told = [f"does not hold {absent[0]}, which the index places there"] if absent else []
            told += [f"holds {extra[0]}, which the index places elsewhere or not at all"] if extra else []
            raise FolderError(
                f"{folder / file} {' and '.join(told)} ({len(absent) + len(extra)} in all): download the folder anew"
            )
        tensors.update(found)
        tensors.places.update(found.places)
    return tensors


def pickle_hint(folder: Path) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if not pickles:
        return ""
    call = "AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW, safe_serialization=True)"
    return (
        f"; {pickles[0]} is a pickle, which can run code: where you trust it, convert it with transformers' {call} and "
        "import NEW"
    )


def read_json(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object that holds the required keys."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{path} is not JSON: {error}") from error
    missing = [key for key in required if not isinstance(raw, dict) or key not in raw]
    if missing:
        raise FolderError(f"{path} lacks {', '.join(missing)}")
    return raw


def open_safetensors(path: Path) -> Tensors:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise FolderError(f"{path} is not a safetensors file, or cut short: its header would have {length} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise FolderError(f"{path} is not a safetensors file: {error}") from error
        if not isinstance(header, dict):
            raise FolderError(f"{path} is not a safetensors file: its header is no JSON object")
        header.pop("__metadata__", None)
        check_header(header, path, size - 8 - length)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = Tensors()
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(mapped, np.uint8, end - start, start)
        tensors[name] = raw.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors.places[name] = Place(mapped, start, end)
    return tensors


def check_header(header: dict[str, Any], path: Path, data_bytes: int) -> None:
    """Every entry whole, of a known type, as long as its shape says; all of them end to end until the file's end."""
    places = []
    for name, entry in header.items():
        whole = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= entry.keys()
        if not whole or not are_sizes(entry["shape"]) or not are_sizes(entry["data_offsets"]):
            raise FolderError(f"{path}: {name} has no dtype, shape or data_offsets that could be read: {damaged(path)}")
        if entry["dtype"] not in DTYPES:
            raise FolderError(
                f"{path}: {name} is {entry['dtype']}, not one of {', '.join(DTYPES)}: convert it to one of these"
            )
        wanted = math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize
        start, end = (*entry["data_offsets"], 0, 0)[:2]
        if len(entry["data_offsets"]) != 2 or end - start != wanted:
            raise FolderError(
                f"{path}: {name} of shape {entry['shape']} in {entry['dtype']} needs {wanted} bytes, its offsets "
                f"{entry['data_offsets']} hold another number: {damaged(path)}"
            )
        places.append((start, end, name))
    reached = 0
    for start, end, name in sorted(places):
        if start != reached:
            what = "overlaps the tensor before it" if start < reached else "leaves a hole before it"
            raise FolderError(f"{path}: {name} {what} (begins at {start}, not {reached}): {damaged(path)}")
        reached = end
    if reached > data_bytes:
        raise FolderError(f"{path} is cut short: {reached - data_bytes} bytes are missing; download it anew")
    if reached < data_bytes:
        raise FolderError(f"{path} has {data_bytes - reached} bytes that no tensor claims: {damaged(path)}")


def are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def damaged(path: Path) -> str:
    return f"download or export {path.name} anew"


# ---------------------------------------------------------------- writing


def plan_shards(sizes: dict[str, int], max_bytes: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order, none above `max_bytes` unless one tensor is."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {ONE_FILE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": names for i, names in enumerate(shards, 1)}


def lay_out(path: Path, shapes: dict[str, tuple[int, ...]], code: str) -> dict[str, int]:
    """Create a safetensors file with its header and room for every tensor; returns where each begins."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts = {}
    end = 0
    for name, shape in shapes.items():
        starts[name] = end
        end += math.prod(shape) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + start for name, start in starts.items()}


def write_index(folder: Path, shards: dict[str, list[str]], total_bytes: int) -> None:
    """Which file holds which tensor; one file alone needs no index."""
    if len(shards) > 1:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
