"""The model card of merged weights: method, models, licences, prompt and limits."""

from asclepius_jax.convert.merge.merge_methods import Recipe
from asclepius_jax.convert.merge.parents import Parent
from asclepius_jax.convert.model_card import LIMITS, NOT_CLINICAL, base_model, hub_repository, prompt, section, table
from asclepius_jax.model.huggingface.families import FAMILIES
from data_prep.contract.hub import OTHER

METHODS = {
    "linear": "weighted average",
    "slerp": "spherical interpolation",
    "task-arithmetic": "task arithmetic ([arXiv 2212.04089](https://arxiv.org/abs/2212.04089))",
    "ties": "TIES ([arXiv 2306.01708](https://arxiv.org/abs/2306.01708))",
}
UNTRAINED = """\
- Nothing was trained or evaluated after merging: losses and scores of the models above are not those of this one.
"""


def merged_card(parents: list[Parent], base: Parent | None, recipe: Recipe, dtype: str) -> str:
    meta = parents[0].meta
    models = [*parents, *([base] if base else [])]
    trained = any(parent.meta.phase != "import" for parent in models)
    weights = zip(parents, recipe.weights, strict=True)
    rows = {
        "Method": METHODS[recipe.method],
        **{f"Model {number}": f"{parent.name}, weight {w:g}" for number, (parent, w) in enumerate(weights, 1)},
        "Base": base.name if base else "",
        "Density": f"{recipe.density:g}" if recipe.method == "ties" else "",
        # LIMITS names it.
        "Row length": f"{max(model.meta.row_length for model in models):,} tokens" if trained else "",
        "Weights here": dtype,
        "Context": f"{meta.model.context:,} tokens",
    }
    kind = FAMILIES[meta.model.family].architecture
    parts = [
        front_matter(models),
        f"# A merged language model\n\nA `{kind}` of {meta.model.num_params:,} parameters, merged by asclepius-jax.\n",
        section("Recipe", table(rows)),
        section("Licences", licences(models)),
        section("Prompt", prompt(meta)),
        section("Limits", (LIMITS.rstrip("\n") + "\n" if trained else "") + UNTRAINED + "\n" + NOT_CLINICAL),
    ]
    return "\n".join(part for part in parts if part)


def front_matter(models: list[Parent]) -> str:
    lines = ["---", "language: en", "library_name: transformers", "pipeline_tag: text-generation"]
    names = {parent.licence for parent in models}
    if "" not in names:
        licence = names.pop() if len(names) == 1 else OTHER
        lines += [f"license: {licence}"]
        lines += ["license_name: those-of-the-merged-models", "license_link: README.md"] if licence == OTHER else []
    # Of a step, the model on the hub that its training started from.
    origins = {
        base_model(parent.meta) if parent.is_step else hub_repository(str(parent.place)): None for parent in models
    }
    hub_ids = [name for name in origins if name]
    lines += ["base_model:", *(f"  - {name}" for name in hub_ids), "base_model_relation: merge"] if hub_ids else []
    return "\n".join([*lines, "tags: [medical, clinical, asclepius-jax, merge]", "---", ""])


def licences(models: list[Parent]) -> str:
    rows = {parent.name: parent.licence or "not recorded" for parent in models}
    return f"Use of these weights is governed by the licences of all models above.\n\n{table(rows)}"
