"""Export of a checkpoint to a Hugging Face folder, without an accelerator and with little memory.

The data is checked against the checkpoint's checksums while it is read, so that damaged weights are never exported.
`--verify` also reads the folder back.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from asclepius_jax.checkpoint.adapters import lora_of
from asclepius_jax.checkpoint.checksums import written
from asclepius_jax.checkpoint.places import Place
from asclepius_jax.checkpoint.read import DIGESTS, STEPS, DamagedStep, Meta, find_step, read_meta, refusal
from asclepius_jax.convert.export_peft import read_adapters, write_peft
from asclepius_jax.convert.merge_adapters import write_merged
from asclepius_jax.convert.model_card import model_card, start_name
from asclepius_jax.convert.verify import verify
from asclepius_jax.convert.weights import Export, Share, check_stored, collect, write_share
from asclepius_jax.model.decoder import build
from asclepius_jax.model.huggingface.names import check_finite, write_config
from asclepius_jax.model.huggingface.safetensors import write_index
from data_prep.contract.errors import UserError
from data_prep.contract.folders.output_folders import NEW, place_of, working_folder
from data_prep.contract.hub import Target, push
from data_prep.contract.manifests import MANIFEST, FolderWriter, read_manifest, writing_folder
from data_prep.contract.prompt.training_prompt import chat_template
from data_prep.contract.records import file_hash, text_hash
from data_prep.contract.tokenizer import JsonTokenizer, check_vocabulary, config_text

TEMPLATE = "chat_template.jinja"
CODES = {"bfloat16": "BF16", "float32": "F32"}
# Files uploaded in addition to the weights that the manifest lists. Any other file in the folder stays on the machine.
TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    TEMPLATE,
    "model.safetensors.index.json",
    "README.md",
)


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Convert a checkpoint to a Hugging Face folder."""

    checkpoint: Path
    """Run folder (its newest step), or RUN/checkpoints/STEP."""
    out: Path
    """Folder to write."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the exported weights."""
    max_shard_size: float = 5.0
    """Largest safetensors file, in GB."""
    verify: bool = False
    """Read the folder back and compare it with the checkpoint; a finished folder is verified as it is."""
    push: str = ""
    """Repository NAME/REPO on the Hugging Face hub to upload to, private; the folder is verified first."""
    public: bool = False
    """Make the pushed repository public."""
    adapters: bool = False
    """Export trained adapters alone, in the form that `peft` loads, instead of merging them into their base."""
    share: Annotated[Share, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Share)


def export(
    checkpoint: str | Path,
    out: str | Path,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    verify: bool = False,
    adapters: bool = False,
) -> Path:
    """Export a checkpoint as a Hugging Face folder, tensor by tensor and without an accelerator.

    Args:
        checkpoint: a run folder (its newest step), or RUN/checkpoints/STEP.
        out: folder to write; it appears once it is complete.
        dtype: type of the exported weights.
        verify: read the folder back and compare every tensor, and the logits if PyTorch is installed.
        adapters: export only the trained adapters, in the format of `peft`, instead of merging them into their base.

    Returns:
        `out` as a path.

    Raises:
        UserError: the checkpoint is damaged, cannot be exported with these settings, or fails verification.
    """
    run_export(ExportConfig(Path(checkpoint), Path(out), dtype, verify=verify, adapters=adapters))
    return Path(out)


def run_export(config: ExportConfig) -> None:
    run_dir, step_folder = find_step(config.checkpoint)
    meta = read_meta(step_folder)
    tokenizer = JsonTokenizer(run_dir / "tokenizer")
    check(config, meta, tokenizer, step_folder)
    facts = {
        "dtype": config.dtype,
        "max_shard_size": config.max_shard_size,
        "tokenizer_hash": meta.tokenizer_hash,
        "step": int(step_folder.name),
        # Only the relative path of the step, because the folder may be published.
        "inputs": {f"{STEPS}/{step_folder.name}": file_hash(step_folder / DIGESTS)},
    }
    with whole_step(config, step_folder, meta) as whole:
        try:
            export_step(config, whole, tokenizer, facts)
        except DamagedStep as error:
            raise UserError(refusal(step_folder, error)) from error
    if config.push:
        push_folder(config)


def push_folder(config: ExportConfig) -> None:
    manifest = read_manifest(config.out, "export")
    names = [*(file["name"] for file in manifest["files"]), *TEXTS, MANIFEST]
    message = f"Step {manifest['step']}, {manifest['dtype']}, by asclepius-jax"
    push(config.out, Target(config.push, "model", config.public), names, message)


@contextlib.contextmanager
def whole_step(config: ExportConfig, step_folder: Place, meta: Meta) -> Iterator[Place]:
    """Context with the step to export. If adapters must be merged, it is a temporary step next to the output folder."""
    if config.adapters or not lora_of(meta).rank:
        yield step_folder
        return
    with working_folder(place_of(config.out), purpose="-merged") as work:
        yield write_merged(step_folder, work / NEW)


def export_step(config: ExportConfig, step_folder: Place, tokenizer: JsonTokenizer, facts: dict[str, Any]) -> None:
    meta = read_meta(step_folder)
    if config.adapters:
        write_adapters(config, step_folder, meta, tokenizer, facts)
        return
    if config.share.process_id:
        identity = text_hash(json.dumps([facts, config.share.processes]))
        write_share(open_export(config, step_folder, meta), config.out, config.share, identity)
        print(f"process {config.share.process_id} of {config.share.processes} has written all its files")
        return
    if not ((config.verify or config.push) and is_finished(config.out, facts)):
        write_folder(config, step_folder, meta, tokenizer, facts)
    if config.verify or config.push:
        verify(config.out, step_folder, meta, texts_of(meta, tokenizer, config.dtype))


def check(config: ExportConfig, meta: Meta, tokenizer: JsonTokenizer, step_folder: Place) -> None:
    """Raise UserError, before anything is written, if the checkpoint cannot be exported with these settings."""
    check_tokenizer(tokenizer, meta, step_folder)
    check_shard_size(config.max_shard_size)
    lora, share = lora_of(meta), config.share
    if config.adapters and not lora.rank:
        raise UserError(f"--adapters: {step_folder} contains no adapters but a complete model; omit the flag")
    if config.adapters and (config.verify or config.push):
        raise UserError("--adapters: --verify and --push need a complete model; omit --adapters or these flags")
    if lora.rank and share.processes > 1:
        raise UserError(
            f"--processes {share.processes}: only a single process can merge adapters into their base; omit the flag"
        )
    if not 0 <= share.process_id < share.processes:
        raise UserError(f"--process-id {share.process_id}: it must be from 0 to {share.processes - 1}")


def check_tokenizer(tokenizer: JsonTokenizer, meta: Meta, step_folder: Place) -> None:
    if tokenizer.hash != meta.tokenizer_hash:
        raise UserError(
            f"{tokenizer.folder} is not the tokenizer that {step_folder} was trained with: restore the original folder"
        )
    check_vocabulary(tokenizer, meta.model.vocab_size, step_folder)


def check_shard_size(gigabytes: float) -> None:
    if gigabytes <= 0:
        raise UserError(f"--max-shard-size {gigabytes}: it must be above 0 GB")


def is_finished(out: Path, facts: dict[str, Any]) -> bool:
    """Return whether `out` is a finished export of this step with these settings."""
    try:
        manifest = read_manifest(out, "export")
    except (OSError, UserError):
        return False
    return {name: manifest.get(name) for name in facts} == facts


def open_export(config: ExportConfig, step_folder: Place, meta: Meta) -> Export:
    return Export(step_folder, build(meta.model), CODES[config.dtype], int(config.max_shard_size * 1e9))


def write_folder(
    config: ExportConfig, step_folder: Place, meta: Meta, tokenizer: JsonTokenizer, facts: dict[str, Any]
) -> None:
    with writing_folder(config.out, "export", facts["inputs"], of_records=False) as folder:
        export = open_export(config, step_folder, meta)
        contents = export.write(folder.path, config.share)
        identity = text_hash(json.dumps([facts, config.share.processes]))
        contents |= collect(config.out, folder.path, config.share, identity)
        check_stored({name: content.stored for name, content in contents.items()}, export.model, meta.checksums)
        check_finite({name: content.non_finite for name, content in contents.items()}, step_folder)
        add_weights(folder, export.shards, sum(export.sizes.values()))
        card = model_card(meta, int(step_folder.name), config.dtype)
        add_texts(folder, tokenizer, {**texts_of(meta, tokenizer, config.dtype), "README.md": card})
        folder.facts = {**facts, "checksums": {name: written(contents[name].written) for name in sorted(contents)}}
    print(
        f"exported {step_folder} to {config.out}: {folder.counts['out']} tensors in {len(export.shards)} files",
        flush=True,
    )


def add_weights(folder: FolderWriter, shards: dict[str, list[str]], total_bytes: int) -> None:
    """Add the safetensors files, which are written, to the manifest, and write their index."""
    for file, tensors in shards.items():
        folder.add_file(file, len(tensors), hashed=False)
    write_index(folder.path, shards, total_bytes)
    folder.counts["in"] = folder.counts["out"]


def add_texts(folder: FolderWriter, tokenizer: JsonTokenizer, texts: dict[str, str]) -> None:
    tokenizer.save(folder.path)
    for name, text in texts.items():
        (folder.path / name).write_text(text, encoding="utf-8")


def write_adapters(
    config: ExportConfig, step_folder: Place, meta: Meta, tokenizer: JsonTokenizer, facts: dict[str, Any]
) -> None:
    adapters = read_adapters(step_folder)
    assert adapters is not None, "check refuses a step without adapters"
    base = start_name(meta)
    with writing_folder(config.out, "export", facts["inputs"], of_records=False) as folder:
        count = write_peft(folder.path, build(meta.model), adapters, base, config.dtype)
        folder.add_file("adapter_model.safetensors", count)
        folder.counts["in"] = count
        texts = texts_of(meta, tokenizer, config.dtype)
        card = model_card(meta, int(step_folder.name), config.dtype)
        kept = {name: texts[name] for name in texts.keys() & {TEMPLATE, "tokenizer_config.json"}}
        add_texts(folder, tokenizer, {**kept, "README.md": card})
        folder.facts = facts
    print(f"exported the adapters of {step_folder} to {config.out}: {count} tensors; their base is {base}", flush=True)


def texts_of(meta: Meta, tokenizer: JsonTokenizer, dtype: str) -> dict[str, str]:
    """The text files that transformers reads in addition to weights and tokenizer: {file name: content}."""
    names = tokenizer.kept_names()
    pad_id = tokenizer.fast.token_to_id(names["pad_token"]) if "pad_token" in names else None
    ends: int | list[int] = tokenizer.ends[0] if len(tokenizer.ends) == 1 else list(tokenizer.ends)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends, "pad_token_id": pad_id}
    template = tokenizer.files.chat_template  # of an import
    if meta.phase in ("instruct", "preference"):
        bos, eos = tokenizer.token(tokenizer.bos_id), tokenizer.token(tokenizer.eos_id)
        template = chat_template(meta.prompt_template, bos, eos, tokenizer.special_tokens())
    # transformers 5 reads the template from a file of its own, transformers 4 and the servers built on it from the
    # tokenizer's settings.
    in_config, in_file = ({"chat_template": template}, {TEMPLATE: template}) if template else ({}, {})
    return {
        "config.json": write_config(meta.model, dtype, ids),
        "generation_config.json": json.dumps({**ids, "do_sample": False}, indent=2) + "\n",
        "tokenizer_config.json": config_text({**names, **in_config}),
        **in_file,
    }
