"""Verification of an exported folder against its checkpoint: tensors, text files, and the logits of transformers.

The checksum of each tensor is computed from the file as it is, with its axes mapped to those of our parameter. A
matrix that was transposed wrongly or whose heads were permuted therefore has another checksum than the parameter.
"""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asclepius_jax.checkpoint.blocks import READERS, tensor_checksum
from asclepius_jax.checkpoint.checksums import written
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import Meta, restore_params
from asclepius_jax.config import MeshConfig
from asclepius_jax.convert.weights import Export, check_stored, parameter_sums, tensors_of
from asclepius_jax.cost_model.hardware import available_memory
from asclepius_jax.distributed.sharding import make_mesh, param_shardings
from asclepius_jax.model.decoder import Model, build
from asclepius_jax.model.huggingface.names import check_finite, flatten, non_finite, open_model, read_config
from asclepius_jax.model.huggingface.safetensors import FolderError
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import free_name
from data_prep.contract.manifests import read_manifest
from data_prep.contract.tokenizer import JsonTokenizer, encode_prompt

SAMPLE = """\
Discharge summary. 71-year-old man, h/o COPD and hypertension, admitted with three days of fever (38.9 C) and
productive cough. CXR: right lower lobe consolidation. Ceftriaxone 2 g i.v. daily for 5 days, then amoxicillin p.o.
Oxygen was weaned on day 4. No known drug allergies. Follow-up in two weeks.
"""
MOST_TOKENS = 128
# Bounds of the difference of logits: relative to the largest logit, and the minimum, which applies below 10. They are
# many times the rounding error of float32 sums in a different order.
RELATIVE_BOUND, LEAST_BOUND = 1e-4, 1e-3


def verify(folder: Path, step_folder: Place, meta: Meta, texts: dict[str, str]) -> None:
    """Compare a folder with its checkpoint and print the result. A folder that fails is renamed.

    `texts` contains the exact contents of text files in the folder. Raises UserError if the folder is wrong, and
    DamagedStep if the checkpoint is damaged.
    """
    model = build(meta.model)
    logits_result = ""
    try:
        problem = texts_problem(folder, meta, texts) or content_problem(folder, step_folder, meta, model)
    except (FolderError, UserError) as error:
        problem = str(error)
    if not problem:
        try:
            logits_result = compare_logits(folder, step_folder, meta, model)
        except FolderError as error:
            problem = str(error)
    if problem:
        raise UserError(f"{folder} does not match {step_folder}: {problem}. Renamed to {set_aside(folder)}")
    print(f"verified {folder}: all tensors match the checkpoint; {logits_result}", flush=True)


def set_aside(folder: Path) -> Path:
    failed = free_name(folder.with_name(f"{folder.name}-FAILED"))
    folder.rename(failed)
    return failed


def texts_problem(folder: Path, meta: Meta, texts: dict[str, str]) -> str:
    """The first problem with the tokenizer, the configuration or another text file, or "" if there is none."""
    if JsonTokenizer(folder).hash != meta.tokenizer_hash:
        return "it contains another tokenizer"
    if read_config(folder) != meta.model:
        return "its config.json describes another model"
    for name, text in texts.items():
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:
            return f"{name} is missing or has changed"
    return ""


def content_problem(folder: Path, step_folder: Place, meta: Meta, model: Model) -> str:
    """The first problem with the tensors, or "" if there is none.

    Reads all tensors of the folder, but from the checkpoint only arrays whose checksum in the folder's type is unknown.
    """
    listed = read_manifest(folder, "export")["checksums"]
    tensors = open_model(folder, model)
    shapes = {name: shape.shape for name, shape in flatten(model.shapes).items()}
    tensor_of = {tensor.theirs: tensor for tensor in tensors_of(model)}

    def inspect(name: str) -> tuple[list[int], int]:
        tensor = tensor_of[name]
        shape = shapes[tensor.ours] if tensor.layer is None else shapes[tensor.ours][1:]
        array = tensors.fetch(name)
        sums, bad = tensor_checksum(array, tensor.layout, shape, tensor.layer), non_finite(array)
        tensors.release(name)
        return sums.tolist(), bad

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(tensor_of, pool.map(inspect, tensor_of), strict=True))
    check_finite({name: bad for name, (_, bad) in found.items()}, folder)
    differing = [name for name, (sums, _) in found.items() if listed.get(name) != written(sums)]
    if not differing:
        expected = expected_sums(step_folder, meta, model, tensors)
        sums = parameter_sums(model, {name: sums for name, (sums, _) in found.items()})
        differing = [f"params/{name}" for name, value in sums.items() if expected[name] != value]
    more = f" and {len(differing) - 1} more" if differing[1:] else ""
    return f"the content of {differing[0]}{more} differs" if differing else ""


def expected_sums(step_folder: Place, meta: Meta, model: Model, tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """The checksum of each parameter in the folder's type.

    It is the saved checksum if the checkpoint has the same type, otherwise it is computed from the converted values.
    """
    dtype = next(iter(tensors.values())).dtype
    code = {2: "BF16", 4: "F32"}[dtype.itemsize]
    export = Export(step_folder, model, code, 2**62)
    saved = {name: meta.checksums.get(f"params/{name}") for name in export.arrays}
    same = {name for name, array in export.arrays.items() if array.dtype.numpy_dtype == dtype and saved[name]}
    converted = [tensor for tensor in tensors_of(model) if tensor.ours not in same]
    with ThreadPoolExecutor(READERS) as pool:
        contents = dict(zip([t.theirs for t in converted], pool.map(export.convert, converted), strict=True))
    check_stored({name: content.stored for name, content in contents.items()}, model, meta.checksums)
    sums = parameter_sums(model, {name: content.written for name, content in contents.items()})
    return {name: sums[name] if name in sums else str(saved[name]) for name in export.arrays}


# ---------------------------------------------------------------- logits


def compare_logits(folder: Path, step_folder: Place, meta: Meta, model: Model, rounded: bool = True) -> str:
    """Compare the logits of transformers on the folder with those of our model on the checkpoint.

    If `rounded`, our model uses the checkpoint's parameters rounded to the folder's type. Returns a description of the
    result. Raises FolderError if the logits differ.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return f"skipped logit comparison: {' and '.join(missing)} not installed"
    needed, free = 2 * 4 * model.config.num_params, available_memory()
    if needed > free / 2:
        return (
            f"skipped logit comparison: two models in float32 need {needed / 1e9:.1f} GB, more than half of the "
            f"{free / 1e9:.1f} GB of free memory"
        )
    tokenizer = JsonTokenizer(folder)
    ids = encode_prompt(tokenizer, SAMPLE)[: min(MOST_TOKENS, model.config.context)]
    hf_logits = transformers_logits(folder, ids)
    logits = our_logits(folder, step_folder, model, ids, rounded)
    difference, bound = float(np.abs(logits - hf_logits).max()), max(LEAST_BOUND, RELATIVE_BOUND * np.abs(logits).max())
    result = f"max |delta| of the logits of {len(ids)} tokens to transformers is {difference:.1e} (bound {bound:.1e})"
    if not difference <= bound:  # written so that NaN fails too
        raise FolderError(result)
    return result


def transformers_logits(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # transformers raises whatever it meets first
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise FolderError(f"transformers {__version__} cannot load {folder}: {problem}") from error
    if tokenizer(SAMPLE)["input_ids"][: len(ids)] != ids:
        raise FolderError("the tokenizer gives other token ids in transformers than in training")
    if info["missing_keys"] or info["unexpected_keys"]:
        raise FolderError(f"transformers reports missing {info['missing_keys']}, unknown {info['unexpected_keys']}")
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits.numpy()


def our_logits(folder: Path, step_folder: Place, model: Model, ids: list[int], rounded: bool = True) -> np.ndarray:
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices(backend="cpu")[:1])
    dtype = next(iter(open_model(folder, model).values())).dtype
    params = restore_params(step_folder, model.shapes, param_shardings(mesh, model), verify=False)
    if rounded and dtype.itemsize == 2:
        # Donate the input, so that parameters are never in memory twice. A cast to bfloat16 and back would be
        # optimized away.
        nearest: Any = jax.jit(lambda x: jax.lax.reduce_precision(x, 8, 7), donate_argnums=0)
        params = jax.tree.map(nearest, params)
    tokens_BT = np.array([ids])
    positions_BT = np.arange(len(ids))[None]
    call = jax.jit(lambda p, t, i: model.merge(p)(t, i, np.ones_like(tokens_BT), dtype="float32"))
    return np.asarray(call(params, tokens_BT, positions_BT))
