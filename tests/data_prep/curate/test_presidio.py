"""Names that no rule sees. The spaCy model is a small one made here, which knows two names and nothing else."""

import pytest

from data_prep.clinical_text.identifiers import NEVER_PUBLISHED, find_identifiers
from data_prep.contract.errors import UserError
from data_prep.curate.presidio import find_by_presidio

TEXT = "Her sister Ann Miller called 212-555-0143 about the Hodgkin lymphoma; Zofia Nowak was not told."


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    pytest.importorskip("presidio_analyzer", reason="the extra presidio is not installed")
    import spacy

    language = spacy.blank("en")
    ruler = language.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in ("Ann Miller", "Zofia Nowak", "Hodgkin")])
    folder = tmp_path_factory.mktemp("spacy") / "model"
    language.to_disk(folder)
    return str(folder)


def test_a_name_without_a_title_is_found_and_a_disease_is_not(model: str):
    assert not [item for item in find_identifiers(TEXT, NEVER_PUBLISHED) if item.kind == "name"]
    found = find_by_presidio(TEXT, model)
    assert [item.text for item in found if item.kind == "person"] == ["Ann Miller", "Zofia Nowak"]


def test_a_model_that_is_not_there_is_named_with_the_remedy(model: str):
    with pytest.raises(UserError, match="python -m spacy download en_core_web_none"):
        find_by_presidio(TEXT, "en_core_web_none")


def test_without_the_extra_the_remedy_is_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(UserError, match=r"pip install 'asclepius-jax\[presidio\]'"):
        find_by_presidio(TEXT, "some_other_model")
