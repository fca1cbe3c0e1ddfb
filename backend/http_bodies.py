"""JSON bodies of requests, and of our answers to Label Studio. `rest_responses.py` has the answers of REST.

Label Studio 1.23.2 sends many more fields (tests/data/recordings). A field that is not named here is never read,
above all the `annotations` in the tasks of `/predict`.
"""

from typing import Annotated, Any, TypeVar

from flask import current_app, request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from lorabel.curation.strategy import Strategy
from lorabel.errors import BadRequestError

LARGEST_ID = 2**31 - 1
Id = Annotated[StrictInt, Field(ge=0, le=LARGEST_ID)]
MAX_REASONS = 5
MAX_TASK_IDS = 100_000


def _check_project(text: str) -> str:
    number = text.split(".", 1)[0]
    if not number.isascii() or not number.isdigit() or int(number) > LARGEST_ID:
        raise ValueError(f"{text[:40]!r} is no project; expected '<id>.<created at>' such as '12.1795324321'")
    return text


ProjectKey = Annotated[str, Field(max_length=40), AfterValidator(_check_project)]


class Body(BaseModel):
    """A frozen JSON body."""

    model_config = ConfigDict(frozen=True)


B = TypeVar("B", bound=Body)


class Setup(Body):
    """Body of `POST /setup`. Label Studio sends it before every prediction and on every page load, not only when a
    project is connected."""

    project: ProjectKey
    label_config: str = Field(alias="schema")
    hostname: str | None = None
    access_token: str | None = None
    extra_params: Any = None


class SetupAnswer(Body):
    """Answer of `/setup`: the live version. `unserved` tells by control tag why we do not predict it; it is
    missing if we predict all of them. Label Studio does not read it."""

    model_version: str
    unserved: dict[str, str] | None = None


class Validate(Body):
    """Body of `POST /validate`: a label config, which need not belong to a project."""

    label_config: str


class Task(Body):
    """A task of `/predict`. Its annotations and predictions are not read."""

    id: Id
    data: dict[str, Any]


class PredictParams(Body):
    """Parameters of `/predict`. `context` is null except for smart tools, which show the answer at once and do not
    save it."""

    context: dict[str, Any] | None = None


class Predict(Body):
    """Body of `POST /predict`."""

    project: ProjectKey
    tasks: list[Task]
    label_config: str
    params: PredictParams = PredictParams()


class PredictionEntry(Body):
    """One task's prediction. Every number is finite and every text is set; otherwise Label Studio could not open
    the task."""

    result: list[dict[str, Any]]
    score: float
    model_version: str


class PredictAnswer(Body):
    """Answer of `/predict`: one entry per task, in order. A task that cannot be predicted now has `[]`: Label
    Studio saves nothing and asks again."""

    results: list[PredictionEntry | Annotated[list[Any], Field(max_length=0)]]


class VersionsAnswer(Body):
    """Answer of `/versions`: names of the model versions of every project."""

    versions: list[str]


class HealthAnswer(Body):
    """Answer of `/health`."""

    status: str = "UP"
    model_class: str = "Lorabel"


class WebhookAnswer(Body):
    """Answer of `/webhook`. `job` is the id of the training run, for START_TRAINING only."""

    status: str = "ok"
    job: str | None = None


class ErrorAnswer(Body):
    """Answer with a status code of 400 or more: what was found, what was expected, and what to do."""

    error: str


class Identified(Body):
    """A task or annotation of an event. The job that applies the event reads its other fields."""

    id: Annotated[StrictInt, Field(ge=0)]


class SubmittedAnnotation(Identified):
    """An annotation of an event, with the fields that the job needs. An event without them is refused."""

    updated_at: AwareDatetime
    result: list[dict[str, Any]]


class ProjectReference(Body):
    """The project of an event."""

    id: Id


class Envelope(Body):
    """Body of `POST /webhook`: the fields that every event has."""

    action: str = Field(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")
    project: ProjectReference | None = None


class ProjectEvent(Envelope):
    """Body of the events START_TRAINING, PROJECT_UPDATED and PROJECT_DELETED."""

    project: ProjectReference


class AnnotationEvent(ProjectEvent):
    """Body of the events ANNOTATION_CREATED, ANNOTATION_UPDATED and ANNOTATIONS_CREATED. The last has several
    annotations under the same keys."""

    annotation: SubmittedAnnotation | list[SubmittedAnnotation]
    task: Identified | list[Identified] | None = None


class AnnotationsDeleted(ProjectEvent):
    """Body of the event ANNOTATIONS_DELETED."""

    annotations: list[Identified]


class TasksEvent(ProjectEvent):
    """Body of the events TASKS_CREATED and TASKS_DELETED."""

    tasks: list[Identified]


class Preannotate(Body):
    """Body of `POST .../preannotate`: which tasks are predicted. `task_ids` names them, whether they have an
    annotation or not. Without it, these are all tasks, or those without an annotation if `only_unlabeled`."""

    only_unlabeled: bool = True
    task_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_TASK_IDS)] | None = None


class Order(Body):
    """Body of `POST .../order`: by which strategy the tasks without an annotation are ordered."""

    strategy: Strategy


class Promote(Body):
    """Body of `POST .../promote`: the version, as `3`, `v3` or `p12.v3`."""

    version: str | int


def read_body() -> bytes:
    """The body of the current request.

    Raises:
        RequestEntityTooLarge: the body is larger than MAX_REQUEST_MB. Werkzeug 3.1 silently cuts off a body that
            is sent in chunks, so its length is checked here.
    """
    raw = request.get_data()
    if request.content_length is None and len(raw) >= current_app.config["MAX_CONTENT_LENGTH"]:
        raise RequestEntityTooLarge
    return raw


def parse(model: type[B], raw: bytes) -> B:
    """Read a JSON body.

    Raises:
        BadRequestError: names the wrong fields and the reasons, without their values, which may be secret.
    """
    try:
        return model.model_validate_json(raw or b"null")
    except ValidationError as error:
        raise as_bad_request(error) from error


def as_bad_request(error: ValidationError) -> BadRequestError:
    """The first MAX_REASONS wrong fields with their reasons, as an error that is answered with status 400."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    reasons = [
        f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']}" for detail in details[:MAX_REASONS]
    ]
    if len(details) > MAX_REASONS:
        reasons.append(f"and {len(details) - MAX_REASONS} more")
    return BadRequestError("; ".join(reasons))
