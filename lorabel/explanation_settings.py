"""The settings of explanations in the editor. They are read as a part of `lorabel.settings.Settings`."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

# What EXPLAIN_IN may have.
TEXTAREA, REGIONS = "textarea", "regions"
KINDS = (TEXTAREA, REGIONS)


class ExplanationSettings(BaseSettings):
    """The field `explain_in` is the environment variable EXPLAIN_IN, and so on."""

    explain_in: str = Field(
        "",
        description="How the editor shows why the model predicts so, comma-separated: `textarea`, `regions`; in "
        "control tags whose names begin with `lorabel_why`. By default it does not.",
    )
    explain_max_s: float = Field(
        2.0,
        gt=0,
        le=60,
        description="Most seconds that EXPLAIN_IN may add to the prediction of a task; what takes longer is left "
        "out.",
    )

    @model_validator(mode="after")
    def check_explain_in(self) -> Self:
        for kind in self.explained_in:
            if kind not in KINDS:
                raise ValueError(
                    f"EXPLAIN_IN has {kind!r}; expected {' or '.join(KINDS)}, or both with a comma between them"
                )
        return self

    @property
    def explained_in(self) -> frozenset[str]:
        """The kinds in EXPLAIN_IN."""
        return frozenset(kind.strip() for kind in self.explain_in.split(",") if kind.strip())
