"""The table of devices against data sheets, and the names that JAX gives them."""

import math
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from asclepius_jax.cost_model.hardware import ALLOCATED, DEVICES, cgroup_room, find_device, peak_flops, this_cpu
from asclepius_jax.distributed import xla_flags

GIB = 2**30


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80g"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40g"),
        ("NVIDIA RTX A6000", "a6000-48g"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("cpu", "cpu"),
    ],
)
def test_a_device_is_known_by_its_full_name(kind: str, name: str):
    assert find_device(kind) is DEVICES[name]


@pytest.mark.parametrize(
    "kind",
    [
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA A100-SXM-64GB",
        "NVIDIA A100X", "NVIDIA A100", "NVIDIA H100", "NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA GB200",
        "NVIDIA L40S", "NVIDIA RTX A6000 Laptop GPU", "NVIDIA GeForce RTX 3090", "TPU v4 lite", "TPU v6",
        "TPU v5litepod", "TPU7", "TPU v2", "cpu-like", "TFRT_CPU", "",
    ],
)  # fmt: skip
def test_a_name_that_only_begins_like_a_known_one_is_unknown(kind: str):
    assert find_device(kind) is None
    assert peak_flops(kind) is None


def test_a_known_memory_is_that_of_the_name():
    """In GB as the name says, of which drivers keep some."""
    for name, size in {"a100-40g": 40, "a100-pcie-40g": 40, "a100-pcie-80g": 80, "a100-80g": 80, "h100": 80}.items():
        assert 0.97 * size * 2**30 < DEVICES[name].memory_bytes < size * 2**30, name


def test_peaks_are_dense_and_of_one_jax_device():
    # NVIDIA prints twice as much, "with sparsity"; Google prints 2307 for the two devices of a tpu7x chip.
    peaks = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA A100-SXM4-80GB": 312, "TPU7x": 2307 / 2}
    for kind, teraflops in peaks.items():
        assert peak_flops(kind) == pytest.approx(teraflops * 1e12), kind


def test_no_peak_is_claimed_for_a_cpu_or_an_unknown_device():
    assert peak_flops("cpu") is None
    assert peak_flops("NVIDIA GeForce RTX 3090") is None


def test_a_program_never_gets_more_than_there_is():
    for device in DEVICES.values():
        assert device.limit_bytes <= device.memory_bytes, device.name
    assert DEVICES["v5e"].limit_bytes == 15.75 * GIB
    assert 72 * GIB < DEVICES["h100"].limit_bytes < 74 * GIB


def test_the_allocator_takes_what_the_table_counts_with(monkeypatch):
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "")  # and restored at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(xla_flags.shutil, "which", lambda name: f"/usr/bin/{name}")
    xla_flags.set_flags_for_training()
    assert float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == ALLOCATED
    assert os.environ["XLA_FLAGS"] == " ".join(xla_flags.GPU)
    assert "LIBTPU_INIT_ARGS" not in os.environ


ANEW = """
import resource
from asclepius_jax.distributed.xla_flags import keep_freed_memory
def touched():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
{}
first, second = touched(), touched()
print(first, second)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_mapped_anew_unless_it_is_kept(kept: bool):
    code = ANEW.format("keep_freed_memory()" if kept else "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    pages = 2**26 / resource.getpagesize()
    if first < 0.9 * pages:
        pytest.skip("the kernel maps huge pages unasked")
    assert second < 0.1 * pages if kept else second > 0.9 * pages


def test_the_memory_of_a_cpu_is_what_is_free_on_this_machine():
    free = psutil.virtual_memory().available
    assert this_cpu(4).limit_bytes == pytest.approx(min(free, cgroup_room()) / 4, rel=0.3)


@pytest.mark.parametrize(
    ("line", "base", "names"),
    [
        ("0::/job/task", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "7:cpu,memory:/job/task",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_scheduler_counts_whichever_folder_it_stands_in(tmp_path: Path, line, base, names):
    """Files' pages that can be dropped are room; the strictest limit on the way up decides."""
    limit, usage, cache = names
    for folder, most, used, dropped in (("job", "1000", "700", "100"), ("job/task", "5000", "600", "0")):
        here = tmp_path / base / folder
        here.mkdir(parents=True, exist_ok=True)
        for name, value in ((limit, most), (usage, used), ("memory.stat", f"anon 5\n{cache} {dropped}")):
            (here / name).write_text(value + "\n")
    proc = tmp_path / "cgroup"
    proc.write_text(f"3:cpuset:/\n{line}\n")
    assert cgroup_room(proc, tmp_path) == 400
    assert cgroup_room(tmp_path / "nowhere", tmp_path) == math.inf


def test_links_are_faster_than_networks_and_memory_faster_than_links():
    for device in DEVICES.values():
        assert device.memory_bandwidth > device.link_bandwidth > device.network_bandwidth, device.name
