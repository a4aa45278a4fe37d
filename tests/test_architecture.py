"""Imports point upstream, folders stay small, and the README shows the folders that there are."""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The flow of data: a folder imports its own modules and those of folders before it.
ORDER = {
    "data_prep": (
        "contract", "clinical_text", "faithfulness", "execution", "ingest", "teachers", "synthesize", "curate", "pack",
    ),
    "asclepius_jax": (
        "config", "model", "distributed", "checkpoint", "cost_model", "train", "convert", "generate", "plan",
        "evaluate", "pipelines", "cli",
    ),
}  # fmt: skip
# What the evaluation takes of the text side beside the contract: it asks teachers and judges in the same way.
OF_TEXT_SIDE = ("clinical_text", "execution", "faithfulness", "ingest", "synthesize", "teachers")
MOST_ENTRIES, MOST_LINES, MOST_FUNCTION_LINES, MOST_LOOP_LINES = 12, 400, 60, 120
# Names that a folder gives its own meaning: `kernels.names` and `evaluate.records` say enough.
SHARED_NAMES = {"__init__", "records", "tables", "adapters", "names", "demo", "report"}
# Private parts of other packages that nothing public replaces, by file.
PRIVATE = {"asclepius_jax/cli/command_line.py": {"_strings"}, "asclepius_jax/distributed/job.py": {"_src", "_jax"}}


def modules(folder: str = "") -> dict[str, Path]:
    """Dotted name to file, of both packages or of one folder."""
    packages = [folder] if folder else list(ORDER)
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = modules()
# A wheel's copies of the configs lie in asclepius_jax/ where one was built; they are no part of the tree.
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()


def imported(path: Path) -> Iterator[str]:
    """Full dotted names of everything a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges() -> dict[str, set[str]]:
    """Module to the modules of ours that it imports, lazily ones included."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        targets = {full if full in MODULES else full.rpartition(".")[0] for full in imported(path)}
        found[name] = (targets & MODULES.keys()) - {name}
    return found


EDGES = edges()


def room(module: str) -> tuple[str, str]:
    """(package, folder or file directly in it)."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def breaches(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(path)
        if name.partition(".")[0] in forbidden
    ]


def test_the_text_side_never_imports_the_accelerator_side():
    assert not breaches([*modules("data_prep").values()], ("asclepius_jax", "jax", "flax", "optax", "orbax", "grain"))


def test_the_accelerator_side_never_imports_tensorflow():
    assert not breaches([*modules("asclepius_jax").values()], ("tensorflow", "tensorflow_text"))


def test_every_import_names_its_own_folder_or_an_earlier_one():
    wrong = []
    for module, targets in EDGES.items():
        package, here = room(module)
        for target in targets:
            other, there = room(target)
            if package == other and here and there and ORDER[package].index(there) > ORDER[package].index(here):
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_no_file_reaches_itself_through_its_imports():
    """The strongly connected components of the imports are single files (Tarjan, SIAM J. Comput. 1, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in EDGES[module]:
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1:
                circles.append(circle)

    for module in EDGES:
        if module not in number:
            visit(module)
    assert not circles


def test_the_accelerator_side_reads_only_the_contract_of_the_text_side():
    wrong = []
    for module, targets in EDGES.items():
        package, here = room(module)
        allowed = ("contract", *OF_TEXT_SIDE) if here == "evaluate" else ("contract",)
        if package == "asclepius_jax" and here not in ("pipelines", "cli"):
            wrong += [
                f"{module} imports {t}" for t in targets if room(t)[0] == "data_prep" and room(t)[1] not in allowed
            ]
    assert not wrong


def test_of_the_evaluation_only_the_models_that_answer_know_the_accelerator_side():
    wrong = [
        f"{module} imports {target}"
        for module, targets in EDGES.items()
        for target in targets
        if room(module) == ("asclepius_jax", "evaluate")
        and module != "asclepius_jax.evaluate.answers.models"
        and room(target)[0] == "asclepius_jax"
        and room(target)[1] not in ("evaluate", "")
    ]
    assert not wrong


def test_the_model_stands_alone():
    allowed = ("jax", "flax", "numpy", "einops", "ml_dtypes", "asclepius_jax.model")
    standard = (
        "functools",
        "itertools",
        "json",
        "math",
        "mmap",
        "re",
        "reprlib",
        "typing",
        "dataclasses",
        "pathlib",
        "collections",
    )
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("asclepius_jax/model").values()
        for name in imported(path)
        if not any(name == prefix or name.startswith(prefix + ".") for prefix in allowed + standard)
    ]
    assert not bad


def test_heavy_imports_wait_until_a_stage_runs():
    heavy = ("jax", "flax", "tensorflow", "torch", "transformers", "pyarrow", "datasets", "openai")
    for path in [
        *modules("asclepius_jax/cli").values(),
        *modules("asclepius_jax/config").values(),
        *modules("data_prep").values(),
    ]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [
            alias.name if isinstance(node, ast.Import) else str(node.module) for node in top for alias in node.names
        ]
        assert not [name for name in names if name.partition(".")[0] in heavy], path


def test_no_folder_of_the_packages_has_more_than_twelve_entries():
    if not TRACKED:
        pytest.skip("not a git checkout")
    entries: dict[Path, set[str]] = defaultdict(set)
    for path in map(Path, TRACKED):
        if path.parts[0] in (*ORDER, "configs", "launch", "docs", "examples", "benchmarks", "tests"):
            for parent, child in zip(path.parents, (path, *path.parents), strict=False):
                entries[parent].add(child.name)
    large = {str(f): len(names - {"__init__.py", "py.typed"}) for f, names in entries.items() if f != Path()}
    assert not {folder: count for folder, count in large.items() if count > MOST_ENTRIES}


def test_files_and_functions_are_short():
    long = []
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        most = MOST_LOOP_LINES if path.name == "loop.py" else MOST_FUNCTION_LINES
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno
                lines = node.end_lineno - node.lineno + 1
                if lines > most:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long


def test_a_module_is_known_by_its_name():
    """A package may hold one file of its own name, its main one."""
    named: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in MODULES.values():
        if path.stem not in SHARED_NAMES:
            named[path.relative_to(ROOT).parts[0], path.stem].append(path)
    assert not {name: paths for name, paths in named.items() if len(paths) > 1}


def test_private_parts_of_other_packages_are_used_where_the_list_says():
    used: dict[str, set[str]] = defaultdict(set)
    for path in MODULES.values():
        for name in imported(path):
            if name.partition(".")[0] not in ORDER:
                private = {part for part in name.split(".") if part.startswith("_") and not part.startswith("__")}
                if private:
                    used[str(path.relative_to(ROOT))] |= private
    assert {file: names for file, names in used.items() if not names <= PRIVATE.get(file, set())} == {}


def test_the_readme_shows_the_folders_that_there_are():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :]
    shown = {match[1].rstrip("/") for match in re.finditer(r"^ {2}(\w+/)", tree, re.MULTILINE)}
    assert shown == {
        folder for package, order in ORDER.items() for folder in order if (ROOT / package / folder).is_dir()
    }


def test_the_version_stands_in_one_place():
    from asclepius_jax import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
