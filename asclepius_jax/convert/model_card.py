"""The page that comes with the weights: what they are, from what data and how, what may be done with them, and what
not."""

import math
import re
from collections.abc import Mapping
from typing import Any

from asclepius_jax.checkpoint.read import Meta
from data_prep.contract.hub import hub_name

TRAINED = ", trained with asclepius-jax on synthetic clinical notes"
KINDS = {
    "instruct": f" that answers instructions about clinical notes{TRAINED}",
    "pretrain": f" that continues clinical notes{TRAINED}",
    "import": ", as they came: asclepius-jax has read and written them, and trained nothing",
}
LIMITS = """\
- Trained on synthetic notes, which were made from published case reports: unusual cases, in the language of journals.
  Real notes differ, and so may the answers.
- Answers may be wrong, incomplete or made up, and read as well as right ones. Nobody should act on one without reading
  the note.
- Notes longer than the row length above were never seen in training.
- What the published reports leave out or misjudge about groups of patients is in the weights too.

"""
NOT_CLINICAL = """\
**Not for clinical use**: nothing that this model writes may decide on a patient's care.
"""


def model_card(meta: Meta, step: int, dtype: str) -> str:
    parts = [
        front_matter(meta),
        f"# A clinical language model\n\nA LLaMA of {meta.model.num_params:,} parameters{KINDS[meta.phase]}.\n",
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
    """The data's licence where all of it has one that the hub knows, else `other`; nothing where there is no data."""
    names = {hub_name(name) for name in meta.data.get("licences", {})}
    return "" if not names else names.pop() if len(names) == 1 else "other"


def base_model(meta: Meta) -> str:
    """OWNER/NAME of the model that training started from, where its folder is one of the hub's cache."""
    started = meta.config.get("init", {}).get("hf", "")
    found = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", started)
    return f"{found[1]}/{found[2]}" if found else ""


def data_rows(meta: Meta) -> dict[str, Any]:
    data = meta.data
    return {
        "Sources (documents)": counted(data.get("sources", {})),
        "Licences (documents)": counted(data.get("licences", {})),
        "Documents": number(data.get("documents")),
        "Tokens": number(data.get("tokens")),
        "of these with a loss": number(data.get("loss_tokens")),
        "Packed rows": number(data.get("rows")),
    }


def licence_line(meta: Meta) -> str:
    if not meta.data.get("licences"):
        return "Nothing is recorded of the data that these weights were trained on.\n"
    return (
        "\nThe licences of the data, and of the model that training started from, govern what may be done with these "
        "weights.\n"
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
        # The last part of a path: where things lie on the machine that trained is nobody's business.
        start = (config["init"]["hf"] or config["init"]["checkpoint"]).rstrip("/").rpartition("/")[2]
        rows |= {
            "Started from": base_model(meta) or start or "random parameters",
            "Optimizer": f"AdamW, beta {optimizer['beta1']}/{optimizer['beta2']}, epsilon {optimizer['epsilon']:g}, "
            f"weight decay {optimizer['weight_decay']:g}, gradients clipped at norm {optimizer['clip_norm']:g}",
            "Learning rate": f"{optimizer['learning_rate']:g}, warmup over {optimizer['warmup_fraction']:.0%} of the "
            f"steps, cosine to {optimizer['final_fraction']:.0%}",
            "Adapters": adapters_line(config.get("lora", {"rank": 0})),
            "Epochs": f"{config['data']['epochs']:g}",
            "Global batch": f"{config['batch']['global_batch']} rows",
            "Row length": f"{meta.row_length:,} tokens",
            "Steps": f"{step:,}",
            "Computed in": f"{config['compute']['dtype']}, float32 parameters and optimizer state",
        }
    rows |= {"Weights here": dtype, "Context": f"{meta.model.max_length:,} tokens"}
    return rows


def adapters_line(lora: dict[str, Any]) -> str:
    if not lora["rank"]:
        return ""
    return f"rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g}, of {' '.join(lora['targets'])}"


def evaluation(meta: Meta) -> str:
    if meta.eval_loss is None:
        return "No loss on held-out rows is recorded with these weights.\n"
    return table(
        {
            "Loss on held-out rows": f"{meta.eval_loss:.4f} nats a token",
            "Perplexity": f"{math.exp(min(meta.eval_loss, 80.0)):.3f}",
        }
    )


def prompt(meta: Meta) -> str:
    if meta.phase != "instruct":
        return ""
    return (
        "The chat template takes the note as system message and the instruction as user message, and renders the "
        f"prompt of training:\n\n```\n{meta.prompt_template}```\n"
    )
