"""Makes the redactor that the settings ask for."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from lorabel.errors import SettingsError
from lorabel.privacy_settings import PrivacySettings
from lorabel.redaction import Found, Redactor

if TYPE_CHECKING:
    from lorabel.recognizers import Recognizers

HEAVY = ("torch", "transformers")


def make_redactor(settings: PrivacySettings) -> Redactor:
    """The redactor of the settings. `Redactor.load` says whether it can mask all that they name."""
    finder = ProcessRecognizers(settings) if settings.redacted_entities else None
    return Redactor(settings.redacted_kinds, settings.redact_patterns, finder)


class ProcessRecognizers:
    """The recognisers of Presidio, made at the first text or by `load`, and once in a process.

    Most commands mask nothing, and to import spaCy and Presidio takes seconds.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        self._arguments = (
            settings.redacted_entities,
            settings.redact_language,
            settings.redact_spacy_model,
            settings.redact_score,
        )

    @property
    def entities(self) -> Sequence[str]:
        """Presidio's names for what is looked for. Raises SettingsError, as `find` does."""
        return _recognizers(*self._arguments).entities

    def load(self) -> None:
        """As `lorabel.redaction.Finder.load`."""
        _recognizers(*self._arguments)

    def find(self, text: str) -> Iterable[Found]:
        """As `lorabel.redaction.Finder.find`.

        Raises:
            SettingsError: Presidio, the language or the model is not installed, or an entity is not known.
        """
        return _recognizers(*self._arguments).find(text)


@cache
def _recognizers(entities: tuple[str, ...], language: str, model: str | None, least_score: float) -> "Recognizers":
    # Presidio would occupy a GPU, for nothing that it does here.
    os.environ.setdefault("PRESIDIO_DEVICE", "cpu")
    try:
        with _hidden():
            from lorabel.recognizers import Recognizers
    except ImportError as error:
        raise SettingsError(
            f"REDACT names {', '.join(entities)}, which needs Presidio; install lorabel[presidio] ({error})"
        ) from error
    return Recognizers(entities, language, model, least_score)


@contextmanager
def _hidden() -> Iterator[None]:
    """Let spaCy and Presidio not import HEAVY, which they do where it is installed, unless this process has torch.

    That is 0.7 GB of memory and 20 s of CPU in each process. Another thread must not import HEAVY meanwhile: where
    they are used they are imported at the start, or after the services were opened.
    """
    hidden = [] if "torch" in sys.modules else [name for name in HEAVY if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
