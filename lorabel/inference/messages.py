"""What travels between backend, workers and model server over HTTP."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class PredictRow(Message):
    """One contract's input by its kind, and the adapter's name (`p1.v2/label`); None asks the base model."""

    kind: str
    input: dict[str, Any]
    adapter: str | None = None


class Priority(StrEnum):
    """Who waits for the answer, the most urgent first: a person, a bulk job, or nobody yet."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    LOOKAHEAD = "lookahead"


class PredictRequest(Message):
    """`timeout_s`: seconds after which nobody waits for the answer any more. `project`: rows of one priority are
    computed in turn among the projects that have some waiting."""

    rows: list[PredictRow] = Field(min_length=1)
    timeout_s: float = Field(gt=0)
    project: int = 0
    priority: Priority = Priority.INTERACTIVE


class RowError(Message):
    """Why a row has no output. `is_permanent`: asking again cannot help (a broken file)."""

    reason: str
    is_permanent: bool


class RowResult(Message):
    """Exactly one of `output` and `error` is set."""

    output: dict[str, Any] | None = None
    error: RowError | None = None


class PredictResponse(Message):
    rows: list[RowResult]


class PreloadRequest(Message):
    adapters: list[str]


class FamilyInfo(Message):
    name: str
    source: str
    parameters: int
    lora_layers: int


class ModelsResponse(Message):
    """What is on the device: `adapters` from least to most recently used."""

    device: str
    precision: str
    max_batch: int
    families: list[FamilyInfo]
    adapters: list[str]
    adapter_bytes: int
