"""Kinship between a judge, the models that it judges, and the teacher that wrote data or reference answers.

A judge favours answers of its own family, and answers that resemble its family's writing (Panickssery et al. 2024,
arXiv 2404.13076). Families go by the weights that a model started from, so far as names and folders show it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asclepius_jax.evaluate.answers.answers import found_folders
from asclepius_jax.evaluate.records import Question
from data_prep.contract.manifests import MANIFEST, read_manifest

# Names by family. A longer name is recognised before a shorter one in it; "-" marks names that only look like another
# family's. Short names count as whole words: "phi" is not in "dolphin".
FAMILIES = """
OpenAI: gpt chatgpt gpt-oss o1 o3 o4 davinci codex
Claude: claude
Gemini: gemini gemma medgemma txgemma codegemma shieldgemma palm medpalm bison bard learnlm
Llama: llama codellama vicuna alpaca medalpaca chatdoctor tulu wizardlm guanaco koala baize stable-beluga
Llama: clinical-camel clinicalcamel asclepius meditron pmc-llama openbiollm openbio-llm med42 hermes-3 hermes-4
Llama: nemotron-70b nemotron-51b nemotron-super-49b nemotron-ultra-253b huatuogpt-o1-8b huatuogpt-o1-70b
Mistral: mistral mixtral ministral codestral magistral devstral pixtral mathstral voxtral zephyr biomistral openchat
Mistral: openhermes starling
Qwen: qwen qwq qvq huatuogpt-o1-7b huatuogpt-o1-72b lingshu marco-o1 openthinker
DeepSeek: deepseek
Phi: phi mediphi
Command: command-r command-a command-light command-nightly aya c4ai
OLMo: olmo
Yi: yi
Nemotron: nemotron
SmolLM: smollm
Granite: granite
Falcon: falcon
Grok: grok
Kimi: kimi moonlight
GLM: glm chatglm
InternLM: internlm intern-s1
Baichuan: baichuan
EleutherAI: gpt-j gpt-neo gpt-neox pythia
-: ollama openllama tinyllama amberllama gpt2-clinical clinicalgpt biogpt
"""
# Models whose published training texts were written by a model of another family, such as ShareGPT and Self-Instruct.
TAUGHT = """
OpenAI: vicuna alpaca medalpaca chatdoctor baize koala wizardlm asclepius clinical-camel clinicalcamel zephyr
OpenAI: openhermes openchat starling tulu phi pmc-llama
"""
LONG = 5  # letters from which a name is also recognised within a word: "meditron3", "BioMistral"
MOST_ANCESTORS = 8  # checkpoints that started from one another


def names_in(table: str) -> list[tuple[str, str]]:
    """(name, family), longest name first."""
    lines = [line.partition(":") for line in table.strip().splitlines()]
    rows = [(name, family) for family, _, names in lines for name in names.split()]
    return sorted(rows, key=lambda row: -len(row[0]))


def pattern_of(name: str) -> re.Pattern[str]:
    body = re.escape(name).replace(r"\-", r"[-_. ]?")
    if len(name) >= LONG:
        return re.compile(body)
    # "gpt4" and "phi3" are names, "o10" is none.
    return re.compile(rf"(?<![a-z0-9]){body}(?![a-z{'0-9' if name[-1].isdigit() else ''}])")


PATTERNS = [(pattern_of(name), family) for name, family in names_in(FAMILIES)]
TAUGHT_PATTERNS = [(pattern_of(name), family) for name, family in names_in(TAUGHT)]


def families_of(name: str, patterns: list[tuple[re.Pattern[str], str]] = PATTERNS) -> set[str]:
    """Families that a model's name shows. "DeepSeek-R1-Distill-Llama-8B" is of two."""
    left, found = name.lower(), set()
    for pattern, family in patterns:
        left, count = pattern.subn("|", left)
        if count and family != "-":
            found.add(family)
    return found


@dataclass(frozen=True)
class Origin:
    """Where a judged model comes from, so far as its folder says."""

    names: tuple[str, ...] = ()  # its name at the endpoint or its folder's name, and those of what it started from
    teachers: tuple[str, ...] = ()  # models that wrote its training data


def kinship(judge: str, models: Mapping[str, Origin], teachers: Iterable[str] = ()) -> list[str]:
    """Warnings, one sentence each, about models that the judge may favour.

    The judge is of the family of a model, of what the model started from, of the teacher of its training data, or of
    one of `teachers`, who wrote the reference answers."""
    own = families_of(judge)
    kin, pupils = [], []
    for model, origin in models.items():
        names = (model, *origin.names)
        if any(own & families_of(name) for name in names):
            kin.append(model)
        elif any(own & families_of(name) for name in origin.teachers) or any(
            own & families_of(name, TAUGHT_PATTERNS) for name in names
        ):
            pupils.append(model)
    authors = sorted({name for name in teachers if own & families_of(name)})
    warnings = []
    if kin:
        warnings.append(f"{judge} is of the same family as {', '.join(kin)}, and judges favour their own family")
    if pupils:
        warnings.append(
            f"{judge} is of the family of the model that wrote training texts of {', '.join(pupils)}, and judges "
            "favour answers like their own"
        )
    if authors:
        warnings.append(
            f"{judge} is of the family of {', '.join(authors)}, which wrote reference answers: it favours models that "
            "were trained on such answers"
        )
    return warnings


def teachers_of(questions: Iterable[Question]) -> list[str]:
    return sorted({question.teacher for question in questions if question.teacher})


# ---------------------------------------------------------------- origins


def origins_of(folders: Iterable[Path], models: Iterable[str]) -> dict[str, Origin]:
    """Origin of each model by its name in the evaluation, from the folders of answers and the models' own folders."""
    origins = dict.fromkeys(models, Origin())
    for folder in found_folders(list(folders)):
        spec = read_manifest(folder, "answers").get("model")
        # An untrained model has the shape of a folder and nothing of its weights.
        if isinstance(spec, dict) and spec["name"] in origins and spec.get("kind") != "untrained":
            names, teachers = ancestry(Path(spec["place"]))
            origins[spec["name"]] = Origin(tuple(names), tuple(teachers))
    return origins


def ancestry(place: Path) -> tuple[list[str], list[str]]:
    """Names of a model and of what it started from, and of the teachers of its training data.

    place: a Hugging Face folder, a run, or a model's name at an endpoint."""
    names, teachers = [short(place)], list[str]()
    for _ in range(MOST_ANCESTORS):
        names += bases_of(place)
        teachers += teachers_of_run(place)
        init = content(place / "config.json").get("init")
        started = str((init.get("checkpoint") or init.get("hf") or "") if isinstance(init, dict) else "")
        if not started:
            break
        place = Path(started)
        names.append(short(place))
    return list(dict.fromkeys(filter(None, names))), sorted(set(teachers))


def short(place: Path) -> str:
    """Name of a model's folder. In the hub's cache, the folder of a snapshot is named by a hash."""
    cached = re.search(r"models--([^/]+)", str(place))
    return cached[1] if cached else place.name


def bases_of(folder: Path) -> Iterator[str]:
    """Names that a Hugging Face folder gives for what the model started from."""
    yield str(content(folder / "config.json").get("_name_or_path") or "")
    yield str(content(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        yield from re.findall(r"^(?:base_model:|\| Started from \|)\s*([\w./-]+)", text, re.MULTILINE)
        yield from re.findall(r"^base_model:\s*\n((?:\s*-\s*\S+\n)+)", text, re.MULTILINE)


def teachers_of_run(run: Path) -> Iterator[str]:
    """Teachers of the instructions or notes that a run was trained on, if their folders are still there."""
    for packed in content(run / "data_manifest.json").get("inputs") or {}:
        teacher = content(Path(packed) / MANIFEST).get("teacher")
        if isinstance(teacher, dict) and teacher.get("model"):
            yield str(teacher["model"])


def content(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty if there is none: kinship is a hint, and no folder has to give it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
