"""Imports point upstream: no module imports one that comes later in the flow of data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"data_prep", "asclepius_jax"}
STAGES = ("case_reports", "notes", "real_notes", "instructions", "compare", "split", "release", "adopt", "pack")


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Full dotted names of everything a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def breaches(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(within(name, prefix) for prefix in forbidden)
    ]


def test_the_text_side_never_imports_the_accelerator_side():
    assert not breaches(modules("data_prep"), ("asclepius_jax", "jax", "flax", "optax", "orbax", "grain"))


def test_the_accelerator_side_never_imports_tensorflow():
    assert not breaches(modules("asclepius_jax"), ("tensorflow", "tensorflow_text"))


@pytest.mark.parametrize("stage", STAGES)
def test_text_stages_never_import_one_another(stage: str):
    # A stage reads what the one before it wrote. case_reports is how notes reads its input, and no output of its own.
    others = tuple(f"data_prep.{other}" for other in STAGES if other not in (stage, "case_reports"))
    assert not breaches([ROOT / "data_prep" / f"{stage}.py"], others)


def test_the_accelerator_side_reads_only_the_shared_files_of_the_text_side():
    allowed = tuple(f"data_prep.{name}" for name in ("records", "folders", "tokenizer", "prompts", "hub"))
    outside = [
        path
        for path in modules("asclepius_jax")
        # The command line starts every stage, and the demo runs them all.
        if "evaluate" not in path.parts and path.name not in ("cli.py", "demo.py")
    ]
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in outside
        for name in imports(path)
        if within(name, "data_prep") and not any(within(name, prefix) for prefix in allowed)
    ]
    assert not bad


def test_the_model_stands_alone():
    allowed = ("jax", "flax", "numpy", "einops", "ml_dtypes", "asclepius_jax.model")
    standard = ("functools", "json", "math", "mmap", "typing", "dataclasses", "pathlib", "collections")
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("asclepius_jax/model")
        for name in imports(path)
        if not any(within(name, prefix) for prefix in allowed + standard)
    ]
    assert not bad


@pytest.mark.parametrize("name", ["train", "export", "evaluate"])
def test_train_export_and_evaluate_never_import_one_another(name: str):
    others = tuple(f"asclepius_jax.{other}" for other in ("train", "export", "evaluate") if other != name)
    paths = modules(f"asclepius_jax/{name}") or [ROOT / "asclepius_jax" / f"{name}.py"]
    assert not breaches([path for path in paths if path.exists()], others)


def test_heavy_imports_wait_until_a_stage_runs():
    heavy = ("jax", "flax", "tensorflow", "torch", "transformers", "pyarrow", "datasets", "openai")
    for path in [ROOT / "asclepius_jax/cli.py", ROOT / "asclepius_jax/config.py", *modules("data_prep")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [
            alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            for node in top
            for alias in node.names
        ]
        assert not [name for name in names for prefix in heavy if within(name, prefix)], path
