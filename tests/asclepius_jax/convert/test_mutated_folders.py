"""Whatever bytes a folder holds, it is read or refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import open_model, read_config
from asclepius_jax.model.huggingface.safetensors import INDEX, ONE_FILE, FolderError
from data_prep.contract.errors import UserError
from data_prep.contract.tokenizer import JsonTokenizer, encode, load_tokenizer
from tests.helpers.made_inputs import MODEL, random_folder
from tests.helpers.mutations import MUTATIONS, OFTEN, changed_bytes, changed_json, trying

SHARD = "model-00001-of-00001.safetensors"
FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", ONE_FILE, INDEX, "tokenizer.model"),
)
TEXT = "fever </s> and  <|im_end|>\n患者 \x07"


@pytest.fixture(scope="module")
def whole(small_tokenizer: Path, tmp_path_factory) -> Path:
    """A valid folder with every file that is read."""
    folder = tmp_path_factory.mktemp("whole")
    random_folder(folder, MODEL)
    JsonTokenizer(small_tokenizer).save(folder)
    shutil.copyfile(folder / ONE_FILE, folder / SHARD)
    length = int.from_bytes((folder / ONE_FILE).read_bytes()[:8], "little")
    names = json.loads((folder / ONE_FILE).read_bytes()[8 : 8 + length]).keys() - {"__metadata__"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(sorted(names), SHARD)}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7], "do_sample": false}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}, "pad_token": "<unk>"}')
    (folder / "added_tokens.json").write_text('{"</s>": 2}')
    return folder


def mutated(content: bytes, name: str, data: st.DataObject) -> bytes:
    if data.draw(st.booleans()) or name.endswith(".model"):
        return changed_bytes(content, data)
    if not name.endswith(".safetensors"):
        return changed_json(content, data)
    length = int.from_bytes(content[:8], "little")
    header = changed_json(content[8 : 8 + length], data)
    claimed = data.draw(st.sampled_from([len(header)] * 4 + [0, len(header) + 1, 10**18, 2**64 - 1]))
    return claimed.to_bytes(8, "little") + header + content[8 + length :]


def read(folder: Path) -> None:
    """Everything that an import reads before it writes, and what is written with it."""
    model = build(read_config(folder))
    tokenizer = load_tokenizer(folder)
    tokenizer.save(folder / "saved")
    saved = JsonTokenizer(folder / "saved")
    encode(saved, TEXT)
    assert saved.hash == tokenizer.hash
    open_model(folder, model)


@pytest.mark.parametrize("mutations", [MUTATIONS, OFTEN])
@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_read_or_refused_in_one_line(whole: Path, tmp_path: Path, name: str, mutations: int):
    outcomes = {"read": 0, "refused": 0}
    shutil.copytree(whole, tmp_path / "folder")
    folder = tmp_path / "folder"
    if name == ONE_FILE:
        (folder / INDEX).unlink()
    if name == "tokenizer.model":
        (folder / "tokenizer.json").unlink()
    content = (folder / name).read_bytes()

    @trying(mutations)
    def mutate(data: st.DataObject) -> None:
        shutil.rmtree(folder / "saved", ignore_errors=True)
        (folder / name).write_bytes(mutated(content, name, data))
        told = ""
        try:
            read(folder)
        except (UserError, FolderError) as error:
            told = str(error)
        outcomes["refused" if told else "read"] += 1
        assert "\n" not in told
        assert len(told) < 1000  # eight tensors by name

    mutate()
    assert outcomes["refused"] >= mutations // 10, outcomes
