"""The table of devices against data sheets, and the names that JAX gives them."""

import re

import pytest
from conftest import ROOT

from asclepius_jax.hardware import ALLOCATED, DEVICES, find_device, peak_flops

GIB = 2**30


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA RTX A6000", "a6000-48g"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_device_is_known_by_the_longest_beginning_of_its_kind(kind: str, name: str):
    assert find_device(kind) is DEVICES[name]


def test_peaks_are_dense_and_of_one_jax_device():
    # NVIDIA prints twice as much, "with sparsity"; Google prints 2307 for the two devices of a tpu7x chip.
    peaks = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA A100-SXM4-80GB": 312, "TPU7x": 2307 / 2}
    for kind, teraflops in peaks.items():
        assert peak_flops(kind) == pytest.approx(teraflops * 1e12), kind


def test_no_peak_is_claimed_for_a_cpu_or_an_unknown_device():
    assert peak_flops("cpu") is None
    assert peak_flops("TFRT_CPU") is None
    assert peak_flops("NVIDIA GeForce RTX 3090") is None


def test_a_program_never_gets_more_than_there_is():
    for device in DEVICES.values():
        assert device.limit_bytes <= device.memory_bytes, device.name
    assert DEVICES["v5e"].limit_bytes == 15.75 * GIB
    assert 72 * GIB < DEVICES["h100"].limit_bytes < 74 * GIB


def test_the_allocator_takes_what_the_launcher_tells_it():
    text = "".join(path.read_text() for path in sorted((ROOT / "launch").glob("*.sh")))
    fractions = re.findall(r"XLA_PYTHON_CLIENT_MEM_FRACTION:-([\d.]+)", text)
    assert fractions, "launch/ no longer sets XLA_PYTHON_CLIENT_MEM_FRACTION"
    assert {float(fraction) for fraction in fractions} == {ALLOCATED}


def test_links_are_faster_than_networks_and_memory_faster_than_links():
    for device in DEVICES.values():
        assert device.memory_bandwidth > device.link_bandwidth > device.network_bandwidth, device.name
