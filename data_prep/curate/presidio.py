"""Identifiers that no rule sees, names of persons above all, by Microsoft's Presidio over a spaCy model.

    pip install 'asclepius-jax[presidio]' && python -m spacy download en_core_web_lg
    asclepius split ... --presidio en_core_web_lg

It reads about a note a tenth of a second, and takes some diseases for people; so it is asked for, and never the only
gate: `identifiers.py` always runs.
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
LEAST_SCORE = 0.5  # of Presidio's confidence: a bare pattern without a word that supports it is below


@functools.lru_cache(maxsize=1)
def analyzer(model: str) -> Any:
    """Presidio over an installed spaCy model, or one in a folder."""
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ModuleNotFoundError as error:
        raise UserError(f"--presidio: {error.name} is not installed: pip install 'asclepius-jax[presidio]'") from error
    try:
        spacy.load(model)
    except OSError as error:  # asked first: Presidio would download it, or fail for want of a network
        raise UserError(f"--presidio {model}: no such spaCy model here: python -m spacy download {model}") from error
    models = [{"lang_code": "en", "model_name": model}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def find_by_presidio(text: str, model: str) -> list[Found]:
    """What Presidio finds, by place. A person of one word is mostly a disease ("Hodgkin") and left to the rules."""
    results = analyzer(model).analyze(text, language="en", entities=list(ENTITIES), score_threshold=LEAST_SCORE)
    found = [
        Found(item.entity_type.lower().replace("_", " "), text[item.start : item.end], item.start) for item in results
    ]
    named = [item for item in found if item.kind != "person" or len(item.text.split()) > 1]
    return sorted(named, key=lambda item: (item.start, item.kind))
