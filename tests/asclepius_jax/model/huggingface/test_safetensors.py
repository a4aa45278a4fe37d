"""A safetensors file is read as the safetensors package reads it, or refused with a line that says what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from asclepius_jax.model.huggingface.safetensors import (
    FolderError,
    lay_out,
    open_folder,
    open_safetensors,
    plan_shards,
)

safetensors_numpy = pytest.importorskip("safetensors.numpy")

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=ml_dtypes.bfloat16),
    "c": np.arange(8, dtype=np.float16).reshape(4, 2),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    safetensors_numpy.save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The same data under a changed header."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    changed = change(header)
    text = json.dumps(header if changed is None else changed).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def test_what_the_package_writes_is_read(file: Path):
    found = open_folder(file.parent)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(found.fetch(name), value)
        found.release(name)
        np.testing.assert_array_equal(found[name], value)


def test_what_is_laid_out_is_read_by_the_package(tmp_path: Path):
    starts = lay_out(tmp_path / "x.safetensors", {name: value.shape for name, value in TENSORS.items()}, "F32")
    with (tmp_path / "x.safetensors").open("r+b") as opened:
        for name, value in TENSORS.items():
            opened.seek(starts[name])
            opened.write(value.astype(np.float32).tobytes())
    found = safetensors_numpy.load_file(tmp_path / "x.safetensors")
    assert all((found[name] == value.astype(np.float32)).all() for name, value in TENSORS.items())


def place(name: str, **entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(entry)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda h: h["a"].pop("dtype"), "a has no valid dtype, shape or data_offsets"),
        (lambda h: h["a"].pop("shape"), "a has no valid dtype, shape or data_offsets"),
        (place("a", shape=[2, -3]), "a has no valid dtype, shape or data_offsets"),
        (place("a", data_offsets="0-24"), "a has no valid dtype, shape or data_offsets"),
        (lambda h: h.update(a=None), "a has no valid dtype, shape or data_offsets"),
        (place("a", dtype="F8_E4M3"), "a is F8_E4M3, not one of F32, F16, BF16"),
        (place("a", dtype=["F32"]), r"a is \['F32'\], not one of F32"),
        (place("a", dtype="F\n32"), r"a is 'F\\n32', not one of F32"),
        (place("a", shape=[True, 6]), "a has no valid dtype, shape or data_offsets"),
        (place("a", shape=[2.0, 3]), "a has no valid dtype, shape or data_offsets"),
        (place("a", shape=[1] * 50 + [6]), "a has no valid dtype, shape or data_offsets"),
        (place("a", shape=[10**18, 10**18]), "in F32 needs 4000"),
        (place("a", data_offsets=[-24, 0]), "a has no valid dtype, shape or data_offsets"),
        (place("a", data_offsets=[0, 2**64]), "a has no valid dtype, shape or data_offsets"),
        (place("c", data_offsets=[10**12, 10**12 + 16]), "leaves a gap before it"),
        (lambda h: h.update({"x\ny": h.pop("a") | {"shape": [9]}}), r"'x\\ny' of shape \[9\]"),
        (place("a", shape=[2, 4]), r"a of shape \[2, 4\] in F32 needs 32 bytes"),
        (place("a", dtype="F16"), r"a of shape \[2, 3\] in F16 needs 12 bytes"),
        (place("a", data_offsets=[24, 0]), r"but its offsets are \[24, 0\]"),
        (place("a", data_offsets=[0, 24, 48]), r"but its offsets are \[0, 24, 48\]"),
        (place("b", data_offsets=[4, 12]), "overlaps the tensor before it"),
        (place("c", data_offsets=[40, 56]), "leaves a gap before it"),
        (lambda h: h.pop("c"), "16 bytes that belong to no tensor"),
        (lambda h: [1], "its header is not a JSON object"),
    ],
)
def test_a_wrong_header_is_refused(file: Path, change: Callable[[dict[str, Any]], Any], told: str):
    rewrite(file, lambda header: [1] if change(header) == [1] else None)
    with pytest.raises(FolderError, match=told) as refused:
        open_safetensors(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b'{"a": {}, "a": {}}', "a occurs twice"),
        ("{}".encode("utf-16"), "is not a safetensors file: 'utf-8' codec"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a":' * 100_000, "its header is nested too deeply"),
        (b'"text"', "its header is not a JSON object"),
    ],
)
def test_a_header_that_is_no_json_object_is_refused(file: Path, header: bytes, told: str):
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FolderError, match=told) as refused:
        open_safetensors(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", ["F64", "I64", "BOOL"])
def test_rotary_frequencies_are_passed_over_in_any_type(file: Path, dtype: str):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(file, lambda header: header.update({name: header.pop("c") | {"dtype": dtype}}))
    assert open_folder(file.parent).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda raw: raw[:-10], "is truncated: 10 bytes are missing; download it again"),
        (lambda raw: raw[:40], "is truncated: its header would have"),
        (lambda raw: raw + b"more", "has 4 bytes that belong to no tensor"),
        (lambda raw: b"", "is truncated"),
        (lambda raw: raw[:8] + b"x" + raw[9:], "is not a safetensors file"),
    ],
)
def test_a_damaged_file_is_refused(file: Path, change: Callable[[bytes], bytes], told: str):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(FolderError, match=told):
        open_folder(file.parent)


# ---------------------------------------------------------------- folders


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    safetensors_numpy.save_file({"a": TENSORS["a"]}, tmp_path / "model-00001-of-00002.safetensors")
    safetensors_numpy.save_file({name: TENSORS[name] for name in "bc"}, tmp_path / "model-00002-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 if name == 'a' else 2}-of-00002.safetensors" for name in "abc"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def change_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    change(weight_map)
    path.write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_one_folder(sharded: Path):
    found = open_folder(sharded)
    assert found.keys() == found.places.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(found.fetch(name), value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(a="model-00003-of-00003.safetensors"), "names model-00003-of-00003.safetensors, which is"),
        (lambda m: m.update(a="../elsewhere.safetensors"), "names ../elsewhere.safetensors, which is missing"),
        (lambda m: m.update(a=m["b"]), "lacks a, which the index lists there"),
        (lambda m: m.update(d=m["b"]), "lacks d, which the index lists there"),
        (lambda m: m.pop("b"), "contains b, which the index does not list there"),
        (lambda m: m.update(a=3), "weight_map must map tensors to files"),
        (lambda m: m.update(a=".."), "names .., which is missing"),
        (lambda m: m.update(a="/etc/hostname"), "names /etc/hostname, which is missing"),
        (lambda m: m.update(a="x\x00y\nz"), r"names 'x\\x00y\\nz', which is missing"),
        (lambda m: m.update(a="x" * 5000), "which is missing"),
    ],
)
def test_a_wrong_index_is_refused(sharded: Path, change: Callable[[dict[str, str]], Any], told: str):
    change_index(sharded, change)
    with pytest.raises(FolderError, match=told):
        open_folder(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FolderError, match=f"{name} is a pickle.*convert it with transformers'.*save_pretrained"):
        open_folder(tmp_path)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own():
    assert plan_shards({"a": 3, "b": 9, "c": 2, "d": 2}, 5) == {
        "model-00001-of-00003.safetensors": ["a"],
        "model-00002-of-00003.safetensors": ["b"],
        "model-00003-of-00003.safetensors": ["c", "d"],
    }
    assert plan_shards({"a": 3, "b": 2}, 5) == {"model.safetensors": ["a", "b"]}
