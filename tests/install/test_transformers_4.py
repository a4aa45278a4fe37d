"""What leaves is read alike by transformers 4.46, from before version 5 moved rotary settings and chat templates.

The older version lives in an environment of its own, with the torch of this one.
"""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asclepius_jax.config import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    InitConfig,
    LogConfig,
    MeshConfig,
    TrainConfig,
)
from asclepius_jax.convert.export_hf import ExportConfig, run_export
from asclepius_jax.convert.import_hf import ImportConfig, run_import
from asclepius_jax.model.sizes import DecoderConfig, RopeScaling
from asclepius_jax.train.loop import train
from data_prep.contract.tokenizer import JsonTokenizer
from data_prep.pack import run as pack
from tests.helpers.made_inputs import example, transformers_model, write_records

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

OLDER = "4.46.3"
SCALED = DecoderConfig(
    320, 32, 64, 2, 4, 2, head_dim=8, max_length=256, rope_theta=500_000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32), norm_eps=1e-6,
)  # fmt: skip
TEXTS = ["fever </s> and  cough\n", "  pain <s>", "5×10⁹/L 患者 🙂", ""]
MESSAGES = [
    {"role": "system", "content": "fever </s> for 7 days {{ x }}"},
    {"role": "user", "content": "How long?"},
    {"role": "assistant", "content": "Seven days."},
    {"role": "user", "content": "And then? <unk>"},
]
# Runs under both versions, so that it holds only what both have.
SCRIPT = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
transformers.logging.set_verbosity_error()
folder, texts, messages = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
tokens = torch.tensor([[i % 300 + 3 for i in range(0, 17 * 200, 17)]])
with torch.no_grad():
    logits = model(tokens).logits[0]
print(json.dumps({
    "version": transformers.__version__,
    "ids": [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts],
    "bos, eos, pad": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    "ends": model.generation_config.eos_token_id,
    "chat": tokenizer.chat_template and tokenizer.apply_chat_template(messages, tokenize=False),
    "chat ids": tokenizer.chat_template and tokenizer(
        tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"],
    "logits": logits.tolist(),
}))
"""


@pytest.fixture(scope="module")
def older_python(tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("older")
    venv.create(home, with_pip=True)
    wanted = [f"transformers=={OLDER}", f"torch=={version('torch').partition('+')[0]}", "jinja2", "numpy"]
    install = [home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(home / "bin/python")


def read_by(python: str, folder: Path) -> dict[str, Any]:
    arguments = json.dumps([str(folder), TEXTS, MESSAGES])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", SCRIPT, arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def start(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A model with scaled rotary frequencies and several ends of a text."""
    folder = tmp_path_factory.mktemp("start")
    JsonTokenizer(small_tokenizer).save(folder)
    transformers_model(folder, SCALED)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7, 9]}')
    return folder


def imported(start: Path, root: Path) -> Path:
    run_import(ImportConfig(start, root / "run"))
    return root / "run"


def tuned(start: Path, root: Path) -> Path:
    examples = [example(f"e{i}", f"fever for {i} days", "How long?", f"For {i} days.") for i in range(40)]
    write_records(root / "examples", examples)
    pack.run(pack.PackConfig(root / "examples", root / "packed", start, 256, workers=1))
    config = TrainConfig(
        run_dir=str(root / "run"),
        model=str(start),
        init=InitConfig(hf=str(start)),
        data=DataConfig(str(root / "packed"), row_length=256, epochs=1.0),
        batch=BatchConfig(8),
        mesh=MeshConfig(2, 2, 2),
        compute=ComputeConfig("float32", "none"),
        log=LogConfig(tensorboard=False, progress=False),
        few_steps=True,
    )
    return train(config)


@pytest.mark.slow
@pytest.mark.parametrize("make", [imported, tuned])
def test_an_exported_folder_is_the_same_model_in_transformers_4(older_python: str, start: Path, tmp_path: Path, make):
    run_export(ExportConfig(make(start, tmp_path), tmp_path / "out", "float32", verify=True))
    older, newer = read_by(older_python, tmp_path / "out"), read_by(sys.executable, tmp_path / "out")
    assert (older.pop("version"), newer.pop("version")) == (OLDER, version("transformers"))
    np.testing.assert_allclose(older.pop("logits"), newer.pop("logits"), atol=1e-5)
    assert older == newer
    assert older["ends"] == [2, 7, 9]
    assert (older["chat"] is None) == (make is imported)
    tokenizer = JsonTokenizer(tmp_path / "out")
    assert older["ids"] == [[1, *ids] for ids in tokenizer.encode_batch(TEXTS)]
