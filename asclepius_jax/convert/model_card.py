"""The model card of exported weights: data, recipe, evaluation, prompt, licence and limits."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from asclepius_jax.checkpoint.read import STEPS, Meta
from asclepius_jax.model.huggingface.families import FAMILIES
from data_prep.contract.hub import hub_name

TRAINED = ", trained with asclepius-jax on synthetic clinical notes"
KINDS = {
    "instruct": f" that answers instructions about clinical notes{TRAINED}",
    "preference": f" that answers instructions about clinical notes{TRAINED} and on pairs of answers",
    "pretrain": f" that continues clinical notes{TRAINED}",
    "import": ", converted by asclepius-jax, which has trained nothing",
}
LIMITS = """\
- Trained on synthetic notes that were generated from published case reports, which describe unusual cases in the
  language of journals. Answers about real notes may be worse.
- Answers may be wrong, incomplete or made up, and still sound convincing. Nobody should act on an answer without
  reading the note.
- The training data contains no notes longer than the row length above.
- Gaps and biases of the published reports about groups of patients are present in the weights too.

"""
NOT_CLINICAL = """\
**Not for clinical use**: the output of this model must not be used to decide on a patient's care.
"""


def model_card(meta: Meta, step: int, dtype: str) -> str:
    kind = FAMILIES[meta.model.family].architecture
    parts = [
        front_matter(meta),
        f"# A clinical language model\n\nA `{kind}` of {meta.model.num_params:,} parameters{KINDS[meta.phase]}.\n",
        section("Data", table(data_rows(meta)) + licence_line(meta)),
        section("Recipe", table(recipe_rows(meta, step, dtype))),
        section("Evaluation", evaluation(meta)),
        section("Prompt", prompt(meta)),
        section("Limits", NOT_CLINICAL if meta.phase == "import" else LIMITS + NOT_CLINICAL),
    ]
    return "\n".join(part for part in parts if part)


def section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def table(rows: Mapping[str, Any]) -> str:
    kept = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value not in ("", None))
    return f"| | |\n|---|---|\n{kept}" if kept else ""


def front_matter(meta: Meta) -> str:
    licence = hub_licence(meta)
    lines = ["---", "language: en", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += [f"license: {licence}"] if licence else []
    lines += ["license_name: that-of-the-data", "license_link: README.md"] if licence == "other" else []
    base = base_model(meta)
    lines += [f"base_model: {base}"] if base else []
    return "\n".join([*lines, "tags: [medical, clinical, asclepius-jax]", "---", ""])


def hub_licence(meta: Meta) -> str:
    """The licence of the data in the hub's spelling, `other` for mixed or unknown licences, "" without data."""
    names = {hub_name(name) for name in meta.data.get("licences", {})}
    return "" if not names else names.pop() if len(names) == 1 else "other"


def base_model(meta: Meta) -> str:
    """OWNER/NAME of the model that training started from if it was loaded from the hub's cache, otherwise ""."""
    return hub_repository(meta.config.get("init", {}).get("hf", ""))


def hub_repository(path: str) -> str:
    """OWNER/NAME of a model in the hub's cache, "" for any other path."""
    found = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", path)
    return f"{found[1]}/{found[2]}" if found else ""


def start_name(meta: Meta) -> str:
    """A public name of what training started from."""
    init = meta.config["init"]
    return public_name(Path(init["hf"] or init["checkpoint"]))


def public_name(path: Path) -> str:
    """The hub's name of a model in its cache, otherwise the name of a folder or, for a step, of its run."""
    # Only one part of a path, to keep the folders of this machine private.
    return hub_repository(str(path)) or (path.parents[1] if path.parent.name == STEPS else path).name


def data_rows(meta: Meta) -> dict[str, Any]:
    data = meta.data
    return {
        "Sources (documents)": counted(data.get("sources", {})),
        "Licences (documents)": counted(data.get("licences", {})),
        "Documents": number(data.get("documents")),
        "Tokens": number(data.get("tokens")),
        "of these with a loss": number(data.get("loss_tokens")),
        "Packed rows": number(data.get("rows")),
        "Mixture, by rows": shares(data.get("mixture", {})),
    }


def preference_line(meta: Meta) -> str:
    if meta.phase != "preference":
        return ""
    settings = meta.config["preference"]
    anchor = f", with {settings['anchor_weight']:g} times the cross entropy of better answers"
    return (
        f"DPO on {meta.data['pairs']:,} pairs, beta {settings['beta']:g}, from log-probabilities of "
        f"{meta.data['reference']['weights']}{anchor if settings['anchor_weight'] else ''}"
    )


def shares(mixture: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{name} {float(Fraction(source['weight'])):.1%}" for name, source in mixture.items())


def licence_line(meta: Meta) -> str:
    if not meta.data.get("licences"):
        return "No information about the training data is recorded with these weights.\n"
    return (
        "\nUse of these weights is governed by the licences of the data and of the model that training started from.\n"
    )


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def recipe_rows(meta: Meta, step: int, dtype: str) -> dict[str, Any]:
    config = meta.config
    rows: dict[str, Any] = {"Phase": meta.phase}
    if config:
        optimizer = config["optimizer"]
        rows |= {
            "Started from": start_name(meta) or "random parameters",
            "Optimizer": f"AdamW, beta {optimizer['beta1']}/{optimizer['beta2']}, epsilon {optimizer['epsilon']:g}, "
            f"weight decay {optimizer['weight_decay']:g}, gradients clipped at norm {optimizer['clip_norm']:g}",
            "Learning rate": f"{optimizer['learning_rate']:g}, warmup over {optimizer['warmup_fraction']:.0%} of the "
            f"steps, {schedule(optimizer)}",
            "Preference tuning": preference_line(meta),
            "Adapters": adapters_line(config.get("lora", {"rank": 0})),
            "Epochs": f"{config['data']['epochs']:g}",
            "Global batch": f"{config['batch']['global_batch']} rows",
            "Row length": f"{meta.row_length:,} tokens",
            "Steps": f"{step:,}",
            "Computed in": f"{config['compute']['dtype']}, float32 parameters and optimizer state",
        }
    rows |= {"Weights here": dtype, "Context": f"{meta.model.context:,} tokens"}
    return rows


def schedule(optimizer: dict[str, Any]) -> str:
    """The course of the learning rate after the warmup, in words."""
    shape, end = optimizer.get("schedule", "cosine"), f"to {optimizer['final_fraction']:.0%}"
    if shape == "constant":
        return "then constant"
    if shape == "wsd":
        length = f"{optimizer['decay_steps']:,} steps" if optimizer["decay_steps"] else "tenth of the steps"
        return f"constant, and linear {end} over the last {length}"
    return f"{shape} {end}"


def adapters_line(lora: dict[str, Any]) -> str:
    if not lora["rank"]:
        return ""
    scaled = ", scaled by alpha / sqrt(rank)" if lora.get("rank_stabilized") else ""
    kind = ", with magnitudes (DoRA)" if lora.get("magnitudes") else ""
    return (
        f"rank {lora['rank']}, alpha {lora['alpha']:g}{scaled}, dropout {lora['dropout']:g}{kind}, of "
        f"{' '.join(lora['targets'])}"
    )


def evaluation(meta: Meta) -> str:
    if meta.eval_loss is None or not math.isfinite(meta.eval_loss):
        return "No loss on held-out rows is recorded with these weights.\n"
    if meta.phase == "preference":
        return table({"Loss on held-out rows": f"{meta.eval_loss:.4f} (of pairs, -log sigmoid of their margin)"})
    return table(
        {
            "Loss on held-out rows": f"{meta.eval_loss:.4f} nats per token",
            "Perplexity": f"{math.exp(min(meta.eval_loss, 80.0)):.3f}",
        }
    )


def prompt(meta: Meta) -> str:
    if meta.phase not in ("instruct", "preference"):
        return ""
    return (
        "The chat template takes the note as system message and the instruction as user message, and renders the "
        f"prompt of training:\n\n```\n{meta.prompt_template}```\n"
    )
