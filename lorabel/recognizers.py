"""Finds personal data with the recognisers of Presidio, and names with a model of spaCy: the extra `presidio`.

Presidio's recognisers are patterns with check digits and with words that make a weak pattern certain: nine digits
are a number of social security after "SSN". They need tokens, which a blank pipeline of spaCy gives, and no model.

    Recognizers(("presidio",), "en", None, 0.4).find("SSN 078-05-1121") -> [Found("US_SSN", 4, 15, 0.85)]

https://microsoft.github.io/presidio/supported_entities/
"""

import inspect
import logging
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import regex
import spacy
from cachetools import LRUCache
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    PatternRecognizer,
    RecognizerRegistry,
    predefined_recognizers,
)
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import PhoneRecognizer, SpacyRecognizer
from spacy.language import Language
from spacy.tokens import Doc

from lorabel.errors import SettingsError
from lorabel.privacy_settings import EMAIL_ENTITY, PRESIDIO
from lorabel.redaction import TIMED_OUT, TIMEOUT_S, Found

# In most texts, and of nobody in particular. Who wants them masked names them.
NOT_PERSONAL = frozenset({"DATE_TIME", "URL"})
# Presidio takes longer than in proportion, and spaCy refuses what is longer than a million characters.
PIECE, OVERLAP = 2000, 200
# Log lines, labels and short answers come again and again.
LONGEST_REMEMBERED, REMEMBERED = 500, 4096
SURROGATES = re.compile("[\ud800-\udfff]")
SPACE = re.compile(r"\s")
NAME_PIPES = ("ner", "beam_ner", "entity_ruler")
LEMMAS = "lorabel_lemmas"


class SlowPatternError(Exception):
    """A pattern of Presidio takes too long in a text. Not a TimeoutError, after which Presidio would go on."""


class Recognizers:
    """Finds entities. Thread-safe: one text at a time, in pieces, so that a long one holds up nobody for long.

    Args:
        entities: names of Presidio's entities; PRESIDIO for all that it looks for by itself, without NOT_PERSONAL.
        language: of the texts, such as `en`.
        model: package or folder of a model of spaCy; None to look for no names.
        least_score: less certain ones are left out, in [0, 1].

    Raises:
        SettingsError: the language, the model or an entity is not known.
    """

    def __init__(self, entities: Collection[str], language: str, model: str | None, least_score: float) -> None:
        # Its lines quote words of the texts.
        logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL + 1)
        self._language, self._least_score = language, least_score
        self._nlp = _load(language, model)
        named, has_all = {*entities} - {PRESIDIO}, PRESIDIO in entities
        labels = _labels(self._nlp, named, has_all=has_all)
        recognizers = _by_patterns(language, named, has_all=has_all)
        self.entities = tuple(sorted({*labels.values(), *(_entity(each) for each in recognizers)}))
        if missing := sorted(named - {*self.entities}):
            raise SettingsError(_not_found(missing, language, model))
        if labels:
            recognizers.append(
                SpacyRecognizer(supported_language=language, supported_entities=[*{*labels.values()}])
            )
        self._analyzer = AnalyzerEngine(
            registry=RecognizerRegistry(recognizers, supported_languages=[language]),
            nlp_engine=_engine(self._nlp, language, labels),
            supported_languages=[language],
        )
        self._lock = threading.Lock()
        self._remembered: LRUCache[str, Sequence[Found]] = LRUCache(REMEMBERED)
        self._remembered_lock = threading.Lock()

    def load(self) -> None:
        """Nothing: it is loaded."""

    def find(self, text: str) -> Sequence[Found]:
        """The entities in a text; some may overlap. What takes too long is found as a whole, as TIMED_OUT.

        Any error of Presidio or spaCy is raised as it is. Its message may quote the text.
        """
        if len(text) > LONGEST_REMEMBERED:
            return self._find(text)
        with self._remembered_lock:
            remembered = self._remembered.get(text)
        if remembered is None:
            remembered = self._find(text)
            with self._remembered_lock:
                self._remembered[text] = remembered
        return remembered

    def _find(self, text: str) -> Sequence[Found]:
        # spaCy refuses half a surrogate pair, as of an emoji that was cut.
        whole = SURROGATES.sub("\ufffd", text)
        return [
            each._replace(start=start + each.start, end=start + each.end)
            for start, piece in pieces(whole)
            if not piece.isspace()
            for each in self._find_in(piece)
        ]

    def _find_in(self, piece: str) -> list[Found]:
        # Without a zone, spaCy keeps each word that it has seen for ever. Two threads cannot be in one.
        with self._lock, self._nlp.memory_zone():
            try:
                results = self._analyzer.analyze(
                    piece, self._language, [*self.entities], score_threshold=self._least_score
                )
            except SlowPatternError:
                return [Found(TIMED_OUT, 0, len(piece))]
            return [Found(each.entity_type, each.start, each.end, float(each.score)) for each in results]


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in pieces of about PIECE characters, each with its start.

    They begin and end at spaces where there are some, and overlap by OVERLAP characters or more: what is not
    longer is whole in one of them.
    """
    start = 0
    while start + PIECE + OVERLAP < len(text):
        end = _after_space(text, start + PIECE)
        yield start, text[start:end]
        start = _after_space(text, end - 2 * OVERLAP)
    yield start, text[start:]


def _after_space(text: str, place: int) -> int:
    """The first place after a space, at most OVERLAP characters after a place; else the place itself."""
    space = SPACE.search(text, place, place + OVERLAP)
    return place if space is None else space.end()


def _load(language: str, model: str | None) -> Language:
    """The pipeline of a model, or one that only cuts texts into tokens."""
    try:
        nlp = spacy.blank(language) if model is None else spacy.load(model, exclude=["parser"])
    except (ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        if model is None:
            raise SettingsError(f"REDACT_LANGUAGE is {language!r}, which spaCy cannot read: {reason}") from error
        raise SettingsError(
            f"REDACT_SPACY_MODEL is {model!r}, which cannot be loaded; install the package "
            f"(`python -m spacy download {model}`), or name the folder of a model: {reason}"
        ) from error
    if nlp.lang not in (language, "xx"):
        raise SettingsError(
            f"REDACT_SPACY_MODEL is {model!r}, a model for {nlp.lang!r}; expected one for "
            f"REDACT_LANGUAGE={language}"
        )
    # Presidio compares lemmas with its words. Without a lemmatizer there are none.
    Language.component(LEMMAS, func=_set_lemmas)
    nlp.add_pipe(LEMMAS, last=True)
    return nlp


def _set_lemmas(doc: Doc) -> Doc:
    for token in doc:
        if not token.lemma_:
            token.lemma_ = token.lower_
    return doc


def _labels(nlp: Language, named: Collection[str], *, has_all: bool) -> dict[str, str]:
    """Labels of the model -> entities, of those that are wanted. Empty if there is no model."""
    names = NerModelConfiguration().model_to_presidio_entity_mapping
    labels = {label for pipe, of_pipe in nlp.pipe_labels.items() if pipe in NAME_PIPES for label in of_pipe}
    entities = {label: names.get(label, label) for label in labels}
    return {
        label: entity
        for label, entity in entities.items()
        if entity in named or (has_all and label in names and entity not in NOT_PERSONAL)
    }


def _engine(nlp: Language, language: str, labels: dict[str, str]) -> SpacyNlpEngine:
    """Presidio's engine for a pipeline that is loaded.

    https://microsoft.github.io/presidio/analyzer/nlp_engines/spacy_stanza/
    """
    ignored = {label for of_pipe in nlp.pipe_labels.values() for label in of_pipe} - labels.keys()
    engine = SpacyNlpEngine(
        models=[{"lang_code": language, "model_name": nlp.meta.get("name", language)}],
        ner_model_configuration=NerModelConfiguration(
            labels_to_ignore=ignored - {*labels.values()}, model_to_presidio_entity_mapping=labels
        ),
    )
    engine.nlp = {language: nlp}
    return engine


def _by_patterns(language: str, named: Collection[str], *, has_all: bool) -> list[EntityRecognizer]:
    """Recognisers that need no model. Of an entity that Presidio does not look for by itself, the one that can."""
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    usual = [each for each in registry.recognizers if _is_by_pattern(type(each))]
    chosen = [each for each in usual if _entity(each) in named or (has_all and _entity(each) not in NOT_PERSONAL)]
    covered = {_entity(each) for each in chosen}
    for recognizer_type in _types():
        entity = inspect.signature(recognizer_type).parameters["supported_entity"].default
        # Presidio names the languages of the one for credit cards. Digits are the same in all.
        is_generic = ".generic." in recognizer_type.__module__ and entity not in NOT_PERSONAL
        if entity not in covered and (entity in named or (has_all and is_generic)):
            chosen.append(recognizer_type(supported_language=language))
    # Its pattern takes a time that grows with the square of a word, and it asks the network for ends of domains.
    chosen = [each for each in chosen if _entity(each) != EMAIL_ENTITY]
    for recognizer in chosen:
        _limit_time(recognizer)
    return chosen


def _types() -> list[Any]:
    """Presidio's classes of recognisers that need no model and no server."""
    exported = vars(predefined_recognizers).values()
    return sorted(
        {each for each in exported if inspect.isclass(each) and _is_by_pattern(each)},
        key=lambda each: each.__name__,
    )


def _is_by_pattern(recognizer_type: type) -> bool:
    return (
        issubclass(recognizer_type, PatternRecognizer | PhoneRecognizer)
        and "supported_entity" in inspect.signature(recognizer_type).parameters
    )


def _entity(recognizer: EntityRecognizer) -> str:
    return str(recognizer.supported_entities[0])


def _limit_time(recognizer: EntityRecognizer) -> None:
    """Let no pattern take longer than TIMEOUT_S. Presidio's own limit is 60 s, after which it finds nothing."""
    for pattern in getattr(recognizer, "patterns", ()):
        flags = recognizer.global_regex_flags
        pattern.compiled_regex = LimitedPattern(regex.compile(pattern.regex, flags))
        pattern.compiled_with_flags = flags


class LimitedPattern:
    """A compiled pattern of the package regex whose searches take at most TIMEOUT_S."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def finditer(self, text: str, timeout: float | None = None) -> Iterable[Any]:
        """As `regex.Pattern.finditer`. The timeout is not longer than TIMEOUT_S.

        Raises:
            SlowPatternError: the time is up.
        """
        limit_s = TIMEOUT_S if timeout is None else min(timeout, TIMEOUT_S)
        try:
            yield from self._compiled.finditer(text, timeout=limit_s)
        except TimeoutError:
            raise SlowPatternError from None


def _not_found(missing: Sequence[str], language: str, model: str | None) -> str:
    names = {*NerModelConfiguration().model_to_presidio_entity_mapping.values()}
    hint = "; names are found with REDACT_SPACY_MODEL" if model is None and names & {*missing} else ""
    by_patterns = {inspect.signature(each).parameters["supported_entity"].default for each in _types()}
    return (
        f"REDACT names {', '.join(missing)}, which nothing finds in texts of REDACT_LANGUAGE={language}{hint}; "
        f"patterns find {', '.join(sorted(by_patterns))}"
    )
