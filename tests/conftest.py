"""Eight virtual CPU devices in every test process, and the real inputs that lie beside the repository, if any."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers.command_line import Ask
from tests.helpers.places import shared

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of PyTorch, whose threads spin while they wait for one another: beside another busy process each product takes ten
# times as long as on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ["JAX_PLATFORMS"] == "cpu" and "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    # Programs of a few kilobytes that run a few times: compiling them is most of the work, and without optimization
    # less than half of it. It changes nothing in the programs that are compiled here for TPUs and GPUs.
    quick = ["--xla_backend_optimization_level=0"]
    if version("jaxlib").startswith("0.10."):  # XLA ends a process at a flag that it does not know
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([*quick, os.environ.get("XLA_FLAGS", "")]).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Runs that start again compile the same programs: once in a session is enough, over all of its processes.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="asclepius-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes first and those of seconds last, so that no worker ends long before the other."""
    items.sort(key=lambda item: not {"data_prep", "evaluate"}.isdisjoint(item.path.parts))


def pytest_collection_finish() -> None:
    """What the modules hold is no garbage: without looking through it again and again, a run is quicker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def mistral_tokenizer() -> Path:
    return shared("tokenizers/mistral-7b-v0.1.model")


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory) -> Path:
    """A folder with the tokenizer.json of 320 pieces that the small models of these tests share."""
    from tests.helpers.made_inputs import make_tokenizer

    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def base(small_tokenizer: Path, tmp_path_factory):
    """The configuration of the small run that several files strike, damage and continue."""
    from tests.helpers.training.small_run import small_run

    return small_run(tmp_path_factory.mktemp("inputs"), small_tokenizer)


@pytest.fixture(scope="session")
def unbroken(base, tmp_path_factory) -> Path:
    """The folder of the small run, from its first step to its last."""
    import dataclasses

    from asclepius_jax.train.loop import train

    return train(dataclasses.replace(base, run_dir=str(tmp_path_factory.mktemp("unbroken"))))


@pytest.fixture
def refused(monkeypatch, capsys) -> Ask:
    """The line that `asclepius ARGUMENTS` ends in."""

    def ask(*arguments: object) -> str:
        from asclepius_jax import cli

        monkeypatch.setattr(sys, "argv", ["asclepius", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capsys.readouterr().err
        assert left.value.code == 2, told
        assert "Traceback" not in told
        return told

    return ask
