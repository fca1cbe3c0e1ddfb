"""JSON bodies of requests, and of our answers to Label Studio. `rest_responses.py` has the answers of REST.

Label Studio 1.23.2 sends many more fields (tests/data/recordings). A field that is not named here is never read,
above all the `annotations` in the tasks of `/predict`.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar

from flask import current_app, request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)
from werkzeug.exceptions import RequestEntityTooLarge

from lorabel.curation.strategy import Strategy
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.errors import BadRequestError
from lorabel.label_studio.access import is_web_address

LARGEST_ID = 2**31 - 1
LARGEST_BIG_ID = 2**63 - 1
LONGEST_VERSION = 40
# A prompt of 2048 tokens has about as many characters.
LONGEST_INSTRUCTION = 10_000
MAX_REASONS = 5
MAX_TASK_IDS = 100_000


def _check_project(text: str) -> str:
    if ProjectKey.parse(text).label_studio_id > LARGEST_ID:
        raise ValueError(f"{text[:40]!r} is no project; its id is too large")
    return text


def _check_text(text: str) -> str:
    if "\x00" in text:
        raise ValueError("the text has a NUL character, which PostgreSQL cannot store")
    return text


def _check_address(text: str) -> str:
    if text and not is_web_address(text):
        raise ValueError("expected an address such as http://labels.example.com:8080")
    return text


def _read_time(value: Any) -> datetime:
    """Also refuses times that have no equivalent in UTC, such as 0001-01-01T00:00:00+14:00."""
    try:
        time = datetime.fromisoformat(value)
        time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected a time in ISO 8601 with its time zone") from None
    return time


def check_numbers(value: Any) -> Any:
    """Refuse infinite numbers, such as 1e400, which have no JSON. Returns the value, decoded from JSON.

    Raises:
        ValueError: the value contains such a number.
    """
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("a number is too large") from None
    return value


Id = Annotated[StrictInt, Field(ge=0, le=LARGEST_ID)]
BigId = Annotated[StrictInt, Field(ge=0, le=LARGEST_BIG_ID)]
ProjectText = Annotated[str, Field(max_length=40), AfterValidator(_check_project)]
Text = Annotated[str, AfterValidator(_check_text)]
Address = Annotated[Text, AfterValidator(_check_address)]
Time = Annotated[AwareDatetime, BeforeValidator(_read_time)]
Json = Annotated[Any, AfterValidator(check_numbers)]


class Body(BaseModel):
    """A frozen JSON body."""

    model_config = ConfigDict(frozen=True)


B = TypeVar("B", bound=Body)


class Setup(Body):
    """Body of `POST /setup`. Label Studio sends it before every prediction and on every page load, not only when a
    project is connected."""

    project: ProjectText
    label_config: Text = Field(alias="schema")
    hostname: Address | None = None
    access_token: Text | None = None
    extra_params: Json = None

    @property
    def key(self) -> ProjectKey:
        """What the request says about the identity of its project."""
        return ProjectKey.parse(self.project, self.hostname)


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

    @property
    def regions(self) -> list[dict[str, Any]]:
        """What the annotator has drawn with a smart tool, the newest last; none in another context."""
        regions = (self.context or {}).get("result")
        is_list = isinstance(regions, list) and all(isinstance(region, dict) for region in regions)
        return list(regions) if is_list else []  # type: ignore[arg-type]

    @property
    def is_blank(self) -> bool:
        """Whether a smart tool asks although nothing is drawn."""
        return (self.context or {}).get("result") == []


class Predict(Body):
    """Body of `POST /predict`."""

    project: ProjectText
    tasks: list[Task]
    label_config: Text
    params: PredictParams = PredictParams()

    @property
    def key(self) -> ProjectKey:
        """What the request says about the identity of its project."""
        return ProjectKey.parse(self.project)


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

    id: BigId


class EventTask(Identified):
    """A task of an event. Events about deleted tasks have the id only."""

    data: dict[str, Any] | None = None


class Annotator(Body):
    """A user, in the long form."""

    id: Id


class SubmittedAnnotation(Identified):
    """An annotation of an event, with the fields that the job needs. An event that lacks one of them, or that has
    a value which the database cannot store, is refused. What an annotator was shown, and how long it took, is no
    reason to refuse an event: the job ignores odd values there (`lorabel/labeling/provenance.py`)."""

    updated_at: Time
    result: list[dict[str, Any]]
    task: BigId | Identified | None = None
    completed_by: Id | Annotator | None = None
    was_cancelled: StrictBool | None = None
    ground_truth: StrictBool | None = None


class ProjectReference(Body):
    """The project of an event. All events that Label Studio 1.23.2 sends to a project's webhook bring the label
    config and the creation time."""

    id: Id
    label_config: Text | None = None
    created_at: Time | None = None

    @property
    def key(self) -> ProjectKey:
        """What the request says about the identity of its project."""
        return ProjectKey(LabelStudioId(self.id), self.created_at)


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
    task: EventTask | list[EventTask] | None = None

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        """Each annotation is of a task, which it names itself, or which is the event's only task."""
        annotations = self.annotation if isinstance(self.annotation, list) else [self.annotation]
        tasks = self.task if isinstance(self.task, list) else [self.task] if self.task else []
        for annotation in annotations:
            if annotation.task is None and len(tasks) != 1:
                raise ValueError(f"annotation {annotation.id} names no task")
        return self


class AnnotationsDeleted(ProjectEvent):
    """Body of the event ANNOTATIONS_DELETED."""

    annotations: list[Identified]


class TasksEvent(ProjectEvent):
    """Body of the events TASKS_CREATED and TASKS_DELETED."""

    tasks: list[EventTask]


class Preannotate(Body):
    """Body of `POST .../preannotate`: which tasks are predicted. `task_ids` names them, whether they have an
    annotation or not. Without it, these are all tasks, or those without an annotation if `only_unlabeled`."""

    only_unlabeled: bool = True
    task_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_TASK_IDS)] | None = None


class Order(Body):
    """Body of `POST .../order`: by which strategy the tasks without an annotation are ordered. An order by `auto`
    is renewed as annotations arrive."""

    strategy: Strategy = Strategy.AUTO


class Promote(Body):
    """Body of `POST .../promote`: the version, as `3`, `v3` or `p12.v3`. `all_annotations`: fitted heads learn
    from all annotations at once, also from those that have arrived since the version was made."""

    version: Annotated[str, Field(max_length=LONGEST_VERSION)] | Id
    all_annotations: bool = False


class ChangeInstructions(Body):
    """Body of `PUT .../instructions`: by control tag what a model that writes is told; null removes it."""

    instructions: Annotated[
        dict[str, Annotated[str, Field(max_length=LONGEST_INSTRUCTION)] | None], Field(max_length=1000)
    ]


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
