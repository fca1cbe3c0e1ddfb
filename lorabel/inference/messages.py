"""The HTTP messages that backend and workers exchange with the model server."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lorabel.contracts import Modality


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


class FamilyQuestion(Message):
    """A kind of question, see `Contract.kind`, about contents of these modalities."""

    kind: str
    modalities: list[Modality]


class FamiliesRequest(Message):
    """Kinds of questions about which the caller asks who would answer them. Nothing is loaded for that."""

    questions: list[FamilyQuestion] = Field(max_length=1000)


class FamilyPart(Message):
    """A base model that computes: the name of its family, and the source of its weights."""

    family: str
    source: str
    is_loaded: bool


class AnsweringFamily(Message):
    """Who answers a kind of question.

    Attributes:
        parts: one base model, or of a pipeline several, in the order in which they compute.
        fault: why nobody answers it; None if somebody does.
    """

    parts: list[FamilyPart]
    fault: str | None = None


class FamiliesResponse(Message):
    """One answer per question of the request, in order."""

    families: list[AnsweringFamily]


class ModelsResponse(Message):
    """What is on the device. `adapters` are ordered from the least to the most recently used."""

    device: str
    precision: str
    max_batch: int
    families: list[FamilyInfo]
    adapters: list[str]
    adapter_bytes: int
