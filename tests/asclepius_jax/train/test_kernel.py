"""Which attention kernel a machine gets, and what is refused."""

import dataclasses
import types
from typing import Any

import numpy as np
import pytest

from asclepius_jax.config import BatchConfig, ComputeConfig, DataConfig, TrainConfig
from asclepius_jax.model.attention import Kernel
from asclepius_jax.model.sizes import VARIANTS, DecoderConfig
from asclepius_jax.train.choose_kernel import choose_kernel, fallback, fallbacks
from data_prep.contract.errors import UserError

CAPPED = DecoderConfig(320, 512, 64, 2, 2, 2, head_dim=64, window=512, layer_kinds=("window", "full"), score_cap=50.0)


def mesh_of(platform: str, capability: str = "") -> Any:
    device = types.SimpleNamespace(platform=platform, device_kind=f"a {platform}", compute_capability=capability)
    return types.SimpleNamespace(devices=np.array([device]))


def choose(
    platform: str, capability: str = "", attention: str = "auto", dtype: str = "bfloat16", row_length: int = 2048,
    model: DecoderConfig = VARIANTS["llama2_7b"], segments: int = 8,
) -> str:  # fmt: skip
    compute: Any = ComputeConfig(dtype=dtype, attention=attention)
    config = TrainConfig(data=DataConfig(row_length=row_length), compute=compute)
    return choose_kernel(config, mesh_of(platform, capability), model, segments).name


@pytest.mark.parametrize(
    ("platform", "capability", "name"),
    [("tpu", "", "splash"), ("gpu", "9.0", "cudnn_packed"), ("gpu", "10.0", "cudnn_packed"),
     ("gpu", "8.0", "cudnn_mask"),
     ("gpu", "8.6", "cudnn_mask"), ("cpu", "", "xla")],
)  # fmt: skip
def test_each_device_gets_its_own(platform: str, capability: str, name: str):
    assert choose(platform, capability) == name


def test_what_cudnn_cannot_do_is_done_without_it_or_refused():
    assert choose("gpu", "9.0", dtype="float32") == "xla"
    assert choose("gpu", "8.0", dtype="float32") == "xla"
    assert choose("gpu", "9.0", attention="xla") == "xla"
    wide = DecoderConfig(320, 512, 64, 2, 2, 2, head_dim=256)
    assert choose("gpu", "9.0", model=wide) == "cudnn_packed"
    for capability in ("8.0", "9.0"):
        assert choose("gpu", capability, model=CAPPED) == "xla"
        assert choose("gpu", capability, model=dataclasses.replace(CAPPED, score_cap=None)).startswith("cudnn")
    assert choose("tpu", model=CAPPED) == "splash"


def test_a_gpu_without_a_fused_kernel_says_why_and_what_it_costs():
    def said(platform: str, model: DecoderConfig, kernel: str, attention: Any = "auto", dtype: Any = "bfloat16") -> str:
        mesh = mesh_of(platform, "9.0")
        mesh.shape = {"data": 1, "fsdp": 2, "tensor": 2, "context": 1}
        config = TrainConfig(
            data=DataConfig(row_length=2048),
            batch=BatchConfig(16, 2),
            compute=ComputeConfig(dtype, attention=attention),
        )
        return fallback(config, mesh, model, Kernel(kernel))

    # Scores of 4 rows, a head of two per device, in float32, and twice more while they become probabilities.
    told = said("gpu", CAPPED, "xla")
    assert "cannot cap attention scores, which the model caps at 50" in told
    assert f"about {3 * 4 * 4 * 1 * 2048**2 / 2**30:.1f} GiB per device" in told
    assert "compute.dtype is float32" in said("gpu", VARIANTS["llama2_7b"], "xla", dtype="float32")
    assert not said("gpu", CAPPED, "xla", attention="xla")
    assert not said("tpu", CAPPED, "splash")
    assert not said("cpu", CAPPED, "xla")
    assert not said("gpu", dataclasses.replace(CAPPED, score_cap=None), "cudnn_mask")


def test_a_device_that_does_not_multiply_eight_bits_faster_says_so():
    def said(platform: str, capability: str, matmul: Any) -> list[str]:
        config = TrainConfig(compute=ComputeConfig(matmul=matmul))
        return fallbacks(config, mesh_of(platform, capability), VARIANTS["llama2_7b"], Kernel("cudnn_mask"))

    assert not said("gpu", "9.0", "float8")
    assert not said("gpu", "8.0", "bfloat16")
    (line,) = said("gpu", "8.0", "float8")
    assert "does not multiply it faster" in line
    assert said("gpu", "9.0", "int8")
    assert said("cpu", "", "float8")


@pytest.mark.parametrize(("documents", "bound"), [(8, 8), (2, 2), (1, 2)])
def test_the_packed_kernel_is_told_how_many_documents_a_row_has(documents: int, bound: int):
    """At least two: a bound of one describes rows that are not packed, and takes no places."""
    kernel = choose_kernel(TrainConfig(), mesh_of("gpu", "9.0"), VARIANTS["llama2_7b"], documents)
    assert (kernel.name, kernel.max_segments) == ("cudnn_packed", bound)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"platform": "tpu", "row_length": 864},
            r"864 is not a multiple of 128.*--row-length 896.*--compute.attention xla",
        ),
        ({"platform": "cpu", "attention": "splash"}, "it runs on TPUs, this is a cpu"),
        ({"platform": "tpu", "attention": "cudnn"}, "it runs on NVIDIA GPUs, this is a tpu"),
        ({"platform": "gpu", "capability": "9.0", "attention": "cudnn", "dtype": "float32"}, "bfloat16"),
        (
            {"platform": "gpu", "capability": "9.0", "attention": "cudnn", "model": CAPPED},
            "cannot cap attention scores, which the model caps at 50: leave it at auto",
        ),
        ({"platform": "gpu", "capability": "8.0", "row_length": 2047}, r"2047 is odd.*--row-length 2048"),
        ({"platform": "gpu", "capability": "7.0"}, "older than Ampere"),
        (
            {"platform": "gpu", "capability": "8.0", "model": DecoderConfig(320, 512, 64, 2, 2, 2, head_dim=256)},
            "at most 128",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_the_way_out(asked: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        choose(**asked)
