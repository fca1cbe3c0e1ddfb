"""Who answers a kind of question, and with which base model: for people who plan a label config."""

from collections.abc import Mapping

from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import Family
from lorabel.families.generator import Generator
from lorabel.families.loading import family_of, source_of
from lorabel.inference.messages import AnsweringFamily, FamilyPart, FamilyQuestion
from lorabel.settings import Settings
from model_server.family_pool import input_type


def answering_family(
    question: FamilyQuestion, settings: Settings, loaded_sources: Mapping[str, str]
) -> AnsweringFamily:
    """Say which family answers a kind of question. Nothing is loaded.

    Args:
        loaded_sources: name of each family that is loaded -> the source of its weights.
    """
    try:
        family = family_of(input_type(question.kind), frozenset(question.modalities))
    except (SettingsError, UnreadableError) as error:
        return AnsweringFamily(parts=[], fault=str(error))
    parts = [
        FamilyPart(
            family=part.name,
            source=loaded_sources.get(part.name) or _source(part, settings),
            is_loaded=part.name in loaded_sources,
        )
        for part in family.part_types or (family,)
    ]
    return AnsweringFamily(parts=parts)


def _source(family: type[Family], settings: Settings) -> str:
    if family is Generator and settings.generator_url is not None:
        return f"{settings.generator_model or source_of(family, settings)} at {settings.generator_url}"
    return source_of(family, settings)
