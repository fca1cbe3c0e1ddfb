"""The settings of privacy. They are read as a part of `lorabel.settings.Settings`."""

import re
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from lorabel.redaction import KINDS, compile_pattern

# In REDACT: all that Presidio's recognisers find. An entity of Presidio is named in capitals.
PRESIDIO = "presidio"
ENTITY = re.compile(r"[A-Z][A-Z0-9_]*")
# Presidio's name for what our own kind finds, by a pattern that takes no longer for longer words.
EMAIL_ENTITY = "EMAIL_ADDRESS"


class PrivacySettings(BaseSettings):
    """The field `redact` is the environment variable REDACT, and so on."""

    lorabel_secret_key: SecretStr | None = Field(
        None,
        description="Keys that encrypt stored tokens, comma-separated, the newest first (`lorabel keys new`); "
        "default: DATA_DIR/secret.key.",
    )
    redact: str = Field(
        "",
        description="What is masked in texts before they are stored, comma-separated: `email`, `phone`, `iban`, "
        "`credit_card`, `ip`; `presidio` for all that Presidio's recognisers find, or entities of Presidio such "
        "as `US_SSN` or `PERSON` (both need the extra `presidio`).",
    )
    redact_patterns: dict[str, str] = Field(
        {}, description='Own regular expressions that are masked, too, by name: `{"customer": "C-[0-9]{6}"}`.'
    )
    redact_language: str = Field(
        "en", description="Language of the texts in which Presidio looks for entities and for words beside them."
    )
    redact_spacy_model: str | None = Field(
        None,
        description="Model of spaCy with which Presidio finds names, places and organisations: the name of an "
        "installed package such as `en_core_web_sm`, or a folder; default: they are not looked for.",
    )
    redact_score: float = Field(
        0.4,
        ge=0,
        le=1,
        description="How certain Presidio must be of what is masked. 0.4: by its form, or by a word beside it.",
    )

    dp_epsilon: float | None = Field(
        None,
        gt=0,
        description="Epsilon that each project may spend on differentially private fits and training runs; "
        "default: they are not private.",
    )
    dp_delta: float = Field(
        1e-5, gt=0, lt=1, description="Delta of DP_EPSILON; less than 1 by the number of annotated tasks."
    )
    dp_releases: int = Field(
        4,
        ge=1,
        description="Fits and training runs of a project among which DP_EPSILON is divided, of each control tag.",
    )

    @model_validator(mode="after")
    def check_redaction(self) -> Self:
        for kind in self._named:
            if kind not in KINDS and kind != PRESIDIO and not ENTITY.fullmatch(kind):
                raise ValueError(
                    f"REDACT has {kind!r}; expected some of {', '.join(KINDS)}, {PRESIDIO}, or entities of "
                    "Presidio in capitals, such as PERSON"
                )
        if self.redact_spacy_model and not self.redacted_entities:
            raise ValueError(
                f"REDACT_SPACY_MODEL is set, and REDACT names nothing that it finds; add {PRESIDIO}, or entities "
                "such as PERSON"
            )
        for name, pattern in self.redact_patterns.items():
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"REDACT_PATTERNS: {name!r} is no regular expression: {error}") from None
        return self

    @property
    def redacted_kinds(self) -> list[str]:
        """The kinds of our own in REDACT."""
        has_emails = {PRESIDIO, EMAIL_ENTITY} & {*self._named}
        return [kind for kind in KINDS if kind in self._named or (kind == "email" and has_emails)]

    @property
    def redacted_entities(self) -> tuple[str, ...]:
        """What Presidio is to find, sorted: names of entities, or PRESIDIO for all of them."""
        return tuple(sorted({*self._named} - KINDS.keys() - {EMAIL_ENTITY}))

    @property
    def _named(self) -> list[str]:
        return [kind.strip() for kind in self.redact.split(",") if kind.strip()]
