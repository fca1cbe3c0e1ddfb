"""The HTTP messages that backend and workers exchange with the model server."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """A frozen JSON body."""

    model_config = ConfigDict(frozen=True)


class PredictRow(Message):
    """One question to a model.

    Attributes:
        kind: names the class of the input, see `Contract.kind`.
        adapter: name of the adapter that answers, such as `p1.v2/label`; None for the base model.
        head: name of the fitted head that answers, such as `p1.h7/label`; None for none.
    """

    kind: str
    input: dict[str, Any]
    adapter: str | None = None
    head: str | None = None


class Priority(StrEnum):
    """Who waits for the answer: a person, a bulk run, or nobody yet. The most urgent is the first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    LOOKAHEAD = "lookahead"


class PredictRequest(Message):
    """Rows to be computed.

    Attributes:
        timeout_s: seconds after which nobody waits for the answer any more.
        project: id of the project. Among rows of the same priority, the projects take turns.
    """

    rows: list[PredictRow] = Field(min_length=1)
    timeout_s: float = Field(gt=0)
    project: int = 0
    priority: Priority = Priority.INTERACTIVE


class RowError(Message):
    """Why a row has no output. `is_permanent`: asking again cannot help, for example because a file is broken."""

    reason: str
    is_permanent: bool


class RowResult(Message):
    """A row's output or error. Exactly one of them is set."""

    output: dict[str, Any] | None = None
    error: RowError | None = None


class PredictResponse(Message):
    """One result per row of the request, in order."""

    rows: list[RowResult]


class PreloadRequest(Message):
    """Names of adapters that the model server shall load now.

    Attributes:
        family: name of the family of all of them. None if it is not known: an adapter then has to fit any loaded
            family.
    """

    adapters: list[str]
    family: str | None = None


class FamilyInfo(Message):
    """A loaded family: the source of its weights, its number of parameters, and of layers that LoRA may change."""

    name: str
    source: str
    parameters: int
    lora_layers: int


class ModelsResponse(Message):
    """What is on the device. `adapters` are ordered from the least to the most recently used."""

    device: str
    precision: str
    max_batch: int
    families: list[FamilyInfo]
    adapters: list[str]
    adapter_bytes: int
