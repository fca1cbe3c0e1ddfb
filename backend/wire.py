"""Bodies of Label Studio's requests and of our answers, as far as we read them.

Label Studio 1.23.2 sends much more than this (tests/data/recordings); a field that is not named here is
never looked at, above all the `annotations` in the tasks of `/predict`.
"""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, ValidationError

from lorabel.curation.sampling import Strategy
from lorabel.errors import BadRequestError

LARGEST_ID = 2**31 - 1
Id = Annotated[StrictInt, Field(ge=0, le=LARGEST_ID)]
MOST_REASONS = 5
MOST_TASK_IDS = 100_000


def _check_project(text: str) -> str:
    number = text.split(".", 1)[0]
    if not number.isascii() or not number.isdigit() or int(number) > LARGEST_ID:
        raise ValueError(f"{text[:40]!r} is no project; expected '<id>.<created at>' such as '12.1795324321'")
    return text


ProjectKey = Annotated[str, Field(max_length=40), AfterValidator(_check_project)]


class Body(BaseModel):
    model_config = ConfigDict(frozen=True)


B = TypeVar("B", bound=Body)


class Setup(Body):
    """`POST /setup`: before every prediction and on every page load, not only when a project is connected."""

    project: ProjectKey
    label_config: str = Field(alias="schema")
    hostname: str | None = None
    access_token: str | None = None
    extra_params: Any = None


class SetupAnswer(Body):
    """`unserved`: by control tag why it is left to people, where some are. Label Studio does not look at it."""

    model_version: str
    unserved: dict[str, str] | None = None


class Validate(Body):
    """`POST /validate`: a label config, before any project has it."""

    label_config: str


class Task(Body):
    """Label Studio's item. Its existing annotations and predictions are not read."""

    id: Id
    data: dict[str, Any]


class PredictParams(Body):
    """`context` is null except for smart tools, which need an answer at once and never store it."""

    context: dict[str, Any] | None = None


class Predict(Body):
    project: ProjectKey
    tasks: list[Task]
    label_config: str
    params: PredictParams = PredictParams()


class PredictionEntry(Body):
    """One task's prediction. Every number is finite, every text set: else the annotator is shut out."""

    result: list[dict[str, Any]]
    score: float
    model_version: str


class PredictAnswer(Body):
    """One entry per task, in order; `[]` for a task that cannot be predicted now: asked again later."""

    results: list[PredictionEntry | Annotated[list[Any], Field(max_length=0)]]


class VersionsAnswer(Body):
    versions: list[str]


class HealthAnswer(Body):
    status: str = "UP"
    model_class: str = "Lorabel"


class WebhookAnswer(Body):
    """`job` is the training run's id, for START_TRAINING only."""

    status: str = "ok"
    job: str | None = None


class ErrorAnswer(Body):
    error: str


class Named(Body):
    """Anything that has an id: the rest of it is read by the job that applies the event."""

    id: Annotated[StrictInt, Field(ge=0)]


class SubmittedAnnotation(Named):
    """What the job cannot do without: events with it missing are refused, not stored."""

    updated_at: AwareDatetime
    result: list[dict[str, Any]]


class ProjectName(Body):
    id: Id


class Envelope(Body):
    """What every webhook request has."""

    action: str = Field(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")
    project: ProjectName | None = None


class ProjectEvent(Envelope):
    """START_TRAINING, PROJECT_UPDATED, PROJECT_DELETED."""

    project: ProjectName


class AnnotationEvent(ProjectEvent):
    """ANNOTATION_CREATED, ANNOTATION_UPDATED; ANNOTATIONS_CREATED, whose key is singular all the same."""

    annotation: SubmittedAnnotation | list[SubmittedAnnotation]
    task: Named | list[Named] | None = None


class AnnotationsDeleted(ProjectEvent):
    annotations: list[Named]


class TasksEvent(ProjectEvent):
    """TASKS_CREATED, TASKS_DELETED."""

    tasks: list[Named]


class Preannotate(Body):
    """Tasks without an annotation, or all, or these (whether they have an annotation or not)."""

    only_unlabeled: bool = True
    task_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_TASK_IDS)] | None = None


class Order(Body):
    """How unlabeled tasks are ordered."""

    strategy: Strategy


class Promote(Body):
    """`3`, `v3` or `p12.v3`."""

    version: str | int


def parse(model: type[B], raw: bytes) -> B:
    """A request's JSON body. Raises BadRequestError with where and why, but without the values."""
    try:
        return model.model_validate_json(raw or b"null")
    except ValidationError as error:
        raise refusal(error) from error


def refusal(error: ValidationError) -> BadRequestError:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    reasons = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in found[:MOST_REASONS]]
    if len(found) > MOST_REASONS:
        reasons.append(f"and {len(found) - MOST_REASONS} more")
    return BadRequestError("; ".join(reasons))
