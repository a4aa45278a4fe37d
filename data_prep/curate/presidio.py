"""Detection of identifiers that no rule finds, such as names of persons, by Microsoft's Presidio with a spaCy model.

    pip install 'asclepius-jax[presidio]' && python -m spacy download en_core_web_lg
    asclepius split ... --presidio en_core_web_lg

Presidio needs about 0.1 s per note and mistakes some diseases for people. It is therefore optional and never the only
check: `identifiers.py` always runs.
"""

import functools
from typing import Any

from data_prep.clinical_text.identifiers import Found
from data_prep.contract.errors import UserError

ENTITIES = (
    "PERSON",
    "PHONE_NUMBER",
    "EMAIL_ADDRESS",
    "US_SSN",
    "US_DRIVER_LICENSE",
    "US_PASSPORT",
    "UK_NHS",
    "MEDICAL_LICENSE",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
)
LEAST_SCORE = 0.5  # Presidio's confidence; a pattern without a supporting word in its context scores lower


@functools.lru_cache(maxsize=1)
def analyzer(model: str) -> Any:
    """A Presidio analyzer with an installed spaCy model, or one in a folder. Raises UserError if it is missing."""
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ModuleNotFoundError as error:
        raise UserError(f"--presidio: {error.name} is not installed: pip install 'asclepius-jax[presidio]'") from error
    try:
        spacy.load(model)
    except OSError as error:  # checked first: Presidio would download the model, or fail without a network
        raise UserError(f"--presidio {model}: no such spaCy model: python -m spacy download {model}") from error
    models = [{"lang_code": "en", "model_name": model}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def find_by_presidio(text: str, model: str) -> list[Found]:
    """The identifiers that Presidio finds, sorted by position.

    A one-word person is mostly a disease ("Hodgkin") and is left to the rules.
    """
    results = analyzer(model).analyze(text, language="en", entities=list(ENTITIES), score_threshold=LEAST_SCORE)
    found = [
        Found(item.entity_type.lower().replace("_", " "), text[item.start : item.end], item.start) for item in results
    ]
    named = [item for item in found if item.kind != "person" or len(item.text.split()) > 1]
    return sorted(named, key=lambda item: (item.start, item.kind))
