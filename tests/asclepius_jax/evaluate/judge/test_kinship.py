"""Judges of the family of a model, of its base, or of the teacher of its data or of the references are named."""

import json

import pytest

from asclepius_jax.evaluate.judge.kinship import Origin, families_of, kinship, origins_of, teachers_of
from asclepius_jax.evaluate.records import Answer
from data_prep.contract.manifests import writing_folder
from tests.helpers.evaluation.made_evaluation import question


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mistral-large", "open-mixtral-8x22b"),
        ("ministral-8b", "codestral-22b"),
        ("magistral-medium", "BioMistral-7B"),
        ("o3", "gpt-4o"),
        ("o4-mini", "chatgpt-4o-latest"),
        ("o1-preview", "gpt-oss-120b"),
        ("gemini-2.5-pro", "google/medgemma-27b-it"),
        ("gemma-3", "med-palm-2"),
        ("llama-3.3-70b", "vicuna-13b"),
        ("Llama-2-70b", "allenai/tulu-2-70b"),
        ("llama-3.1-405b", "Llama-3.1-Tulu-3-8B"),
        ("llama-4-maverick", "clinical-camel-70b"),
        ("Meta-Llama-3-8B", "asclepius-13b"),
        ("llama3", "meditron-70b"),
        ("llama3", "Llama3-OpenBioLLM-70B"),
        ("qwen2.5-72b", "QwQ-32B"),
        ("qwen3", "DeepSeek-R1-Distill-Qwen-7B"),
        ("deepseek-v3", "DeepSeek-R1-Distill-Qwen-7B"),
        ("llama-3", "DeepSeek-R1-Distill-Llama-8B"),
        ("phi-4", "Phi-3.5-mini"),
        ("command-r", "aya-expanse-8b"),
        ("Llama-3.1-Nemotron-70B", "llama-2"),
    ],
)
def test_kin_are_known_by_their_names(one, other):
    assert kinship(one, {"mine": Origin((other,))}), (families_of(one), families_of(other))
    assert kinship(other, {one: Origin()})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("claude-4", "llama-7b"),
        ("gpt-4o", "biogpt-large"),
        ("gpt-4o", "EleutherAI/gpt-j-6b"),
        ("llama-3", "TinyLlama-1.1B"),
        ("llama-3", "ollama/qwen3"),
        ("phi-4", "dolphin-2.9"),
        ("o1", "OLMo-2-13B"),
        ("yi-34b", "playing-7b"),
        ("command-r", "recommander"),
        ("gemini-2.5", "llama-3"),
    ],
)
def test_strangers_are_not(one, other):
    assert not kinship(one, {"mine": Origin((other,))}), (families_of(one), families_of(other))


def test_the_warning_says_what_the_kinship_is():
    models = {"my-GPT-3.5": Origin(), "base": Origin(("gpt-4o-mini",)), "llama-7b": Origin(("x",))}
    assert kinship("gpt-4o", models) == [
        "gpt-4o is of the same family as my-GPT-3.5, base, and judges favour their own family"
    ]
    assert "wrote training texts of asclepius-7b" in kinship("o3", {"asclepius-7b": Origin()})[0]
    assert "wrote training texts of mine" in kinship("o3", {"mine": Origin(("run",), ("gpt-4.1",))})[0]
    assert "of gpt-4.1, which wrote reference answers" in kinship("o3", {}, ["gpt-4.1", "offline"])[0]
    assert not kinship("rules", {"rules": Origin()}, ["offline"])


def test_origins_are_followed_to_the_base_and_to_the_teacher_of_the_data(tmp_path):
    """An instruct run, from a pretrain run, from a hub model; its instructions are by gpt-4o."""
    hub = "/x/models--mistralai--Mistral-7B-v0.1/snapshots/0ab1"
    starts = {
        "instruct": {"hf": "", "checkpoint": str(tmp_path / "pretrain")},
        "pretrain": {"hf": hub, "checkpoint": ""},
    }
    for name, init in starts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"init": init}))
    (tmp_path / "instructions").mkdir()
    (tmp_path / "instructions/manifest.json").write_text(json.dumps({"teacher": {"name": "openai", "model": "gpt-4o"}}))
    data = {"inputs": {str(tmp_path / "instructions"): "0"}}
    (tmp_path / "instruct/data_manifest.json").write_text(json.dumps(data))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/README.md").write_text("---\nbase_model: Qwen/Qwen2.5-7B\n---\n")
    for name, kind, place in (("mine", "checkpoint", "instruct"), ("theirs", "hf", "hf"), ("shape", "untrained", "hf")):
        with writing_folder(tmp_path / "answers" / name, "answers", {}) as writer:
            writer.facts = {"model": {"name": name, "kind": kind, "place": str(tmp_path / place)}}
            writer.add_shard([Answer("q0", name, "x", "stop")], Answer)
    origins = origins_of([tmp_path / "answers"], ["mine", "theirs", "shape"])
    assert "mistralai--Mistral-7B-v0.1" in origins["mine"].names
    assert origins["mine"].teachers == ("gpt-4o",)
    assert kinship("mixtral-8x7b", origins) == [
        "mixtral-8x7b is of the same family as mine, and judges favour their own family"
    ]
    assert "wrote training texts of mine," in kinship("gpt-5", origins)[0]
    assert "as theirs," in kinship("qwen3-235b", origins)[0]


def test_questions_name_the_teacher_of_their_references():
    assert teachers_of([question(0, teacher="gpt-4o"), question(1, teacher="gpt-4o"), question(2)]) == ["gpt-4o"]
