"""The settings of privacy. They are read as a part of `lorabel.settings.Settings`."""

from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from lorabel.redaction import KINDS, compile_pattern


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
        "`credit_card`, `ip`.",
    )
    redact_patterns: dict[str, str] = Field(
        {}, description='Own regular expressions that are masked, too, by name: `{"customer": "C-[0-9]{6}"}`.'
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
        for kind in self.redacted_kinds:
            if kind not in KINDS:
                raise ValueError(f"REDACT has {kind!r}; expected some of {', '.join(KINDS)}")
        for name, pattern in self.redact_patterns.items():
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"REDACT_PATTERNS: {name!r} is no regular expression: {error}") from None
        return self

    @property
    def redacted_kinds(self) -> list[str]:
        """The kinds in REDACT, in its order."""
        return [kind.strip() for kind in self.redact.split(",") if kind.strip()]
