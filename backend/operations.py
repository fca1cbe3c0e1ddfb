"""Every endpoint of the backend, with the models of its bodies.

`tests/docs_tables.py` makes the table of requests in the documentation from OPERATIONS.
"""

from dataclasses import dataclass, field

from pydantic import BaseModel

from backend import (
    acceptance_routes,
    bulk_run_responses,
    comparison_routes,
    explanation_routes,
    forget_routes,
    group_routes,
    http_bodies,
    rest_responses,
    rule_routes,
)

PROJECT = "/api/v1/projects/{project_id}"
REVIEW = f"{PROJECT}/acceptances/{{acceptance_id}}/review"
PAGE = ("limit", "offset")


@dataclass(frozen=True)
class Operation:
    """An endpoint.

    Attributes:
        answer: the model of the answer; None for plain text or JSON without a model.
        body: the model of the request's body; None if there is no body.
        errors: status codes of errors besides 401 and 500, which every endpoint has.
        query: names of the fields of the URL's query.
        is_open: whether the endpoint needs no password.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    is_open: bool = False
    content_type: str = field(default="application/json")


OPERATIONS = (
    Operation(
        "get", "/health", "Tell Label Studio that the backend answers (within 1 s).", http_bodies.HealthAnswer
    ),
    Operation(
        "post",
        "/setup",
        "Tell Label Studio the live model version of a project (within 3 s).",
        http_bodies.SetupAnswer,
        http_bodies.Setup,
        errors=(400, 413),
    ),
    Operation(
        "post",
        "/validate",
        "Tell which control tags of a label config are predicted, and why not the others.",
        rest_responses.ServedRecord,
        http_bodies.Validate,
        errors=(400, 413),
    ),
    Operation(
        "post",
        "/predict",
        "Predict tasks for Label Studio: one prediction per task, in order (within 100 s).",
        http_bodies.PredictAnswer,
        http_bodies.Predict,
        errors=(400, 413, 502, 503),
    ),
    Operation(
        "post",
        "/webhook",
        "Store an event of Label Studio (within 1 s); a job applies it later.",
        http_bodies.WebhookAnswer,
        http_bodies.Envelope,
        errors=(400, 413),
    ),
    Operation("get", "/versions", "List the model versions of every project.", http_bodies.VersionsAnswer),
    Operation(
        "get",
        "/livez",
        "Tell a container's health check that the process answers. No password is needed.",
        None,
        is_open=True,
    ),
    Operation("get", "/metrics", "Metrics for Prometheus.", None, content_type="text/plain"),
    Operation("get", "/api/v1/openapi.json", "This OpenAPI description.", None),
    Operation("get", "/api/v1/projects", "List the projects.", rest_responses.ProjectList),
    Operation(
        "get",
        PROJECT,
        "Show a project, with its label config and the tasks that could not be read.",
        rest_responses.ProjectRecord,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{PROJECT}/versions",
        "List the versions of a project's model, the newest first.",
        rest_responses.VersionList,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{PROJECT}/versions/{{version}}",
        "Show a version, which is named `3`, `v3` or `p12.v3`.",
        rest_responses.VersionDetails,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{PROJECT}/versions/{{version}}/compare",
        "Compare a version with `with`, else with its parent, by the tasks that changed.",
        comparison_routes.VersionComparisonRecord,
        errors=(400, 404),
        query=("with",),
    ),
    Operation(
        "get",
        f"{PROJECT}/runs",
        "List the training runs of a project, the newest first.",
        rest_responses.RunList,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{PROJECT}/preannotate",
        "Start a bulk run that predicts many tasks and writes the predictions to Label Studio.",
        bulk_run_responses.BulkRunRecord,
        http_bodies.Preannotate,
        status=202,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "post",
        f"{PROJECT}/order",
        "Start a bulk run that orders the tasks without an annotation, for Label Studio's label stream.",
        bulk_run_responses.BulkRunRecord,
        http_bodies.Order,
        status=202,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "get",
        f"{PROJECT}/preannotations",
        "List the bulk runs of a project, the newest first.",
        bulk_run_responses.BulkRunList,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{PROJECT}/preannotations/{{run_id}}",
        "Show a bulk run: its progress and the tasks that failed.",
        bulk_run_responses.BulkRunRecord,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{PROJECT}/preannotations/{{run_id}}/cancel",
        "Cancel a bulk run. It stops before its next page of tasks.",
        bulk_run_responses.BulkRunRecord,
        errors=(404, 409),
    ),
    Operation(
        "get",
        f"{PROJECT}/annotations",
        "List the annotations of a project by id.",
        rest_responses.AnnotationList,
        errors=(400, 404),
        query=PAGE,
    ),
    Operation(
        "get",
        f"{PROJECT}/label-errors",
        "Show the annotations that the last run found to be probably wrong, the worst first, and the newest run.",
        bulk_run_responses.LabelErrorList,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{PROJECT}/label-errors",
        "Start a bulk run that looks for annotations that are probably wrong.",
        bulk_run_responses.BulkRunRecord,
        status=202,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{PROJECT}/index",
        "Start a bulk run that embeds all tasks of a project, so that search finds each of them.",
        bulk_run_responses.BulkRunRecord,
        status=202,
        errors=(404, 409),
    ),
    Operation(
        "post",
        f"{PROJECT}/acceptances",
        "Find which predictions may be accepted unseen, and make them annotations of a user.",
        acceptance_routes.AcceptanceRecord,
        acceptance_routes.Accept,
        status=202,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "get",
        f"{PROJECT}/acceptances",
        "List the acceptances of a project: what is proved of each label, and what was written.",
        acceptance_routes.AcceptanceList,
        errors=(404,),
    ),
    Operation(
        "get", REVIEW, "Show what people say about a sample.", acceptance_routes.ReviewRecord, errors=(404, 409)
    ),
    Operation(
        "post",
        f"{PROJECT}/acceptances/{{acceptance_id}}/undo",
        "Take back the annotations of an acceptance that nobody has changed.",
        acceptance_routes.AcceptanceRecord,
        status=202,
        errors=(404, 409),
    ),
    Operation(
        "post",
        f"{PROJECT}/forget",
        "Delete what is kept of a task, an annotator or the project, or say what would be deleted.",
        forget_routes.ForgetRecord,
        forget_routes.Forget,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "get",
        "/api/v1/events",
        "List the events that Label Studio sent, the newest first.",
        rest_responses.EventList,
        errors=(400,),
        query=(*PAGE, "state"),
    ),
    Operation(
        "get",
        f"{PROJECT}/search",
        "Find the tasks that are most similar to a text (`q`) or to another task (`task`).",
        rest_responses.SearchRecord,
        errors=(400, 404, 409, 502, 503),
        query=("q", "task", "limit"),
    ),
    Operation(
        "get",
        f"{PROJECT}/tasks/{{task_id}}/explanation",
        "Explain the model's answer about a task, or about one `label` of it: which words, places and contents "
        "carried it, how near the labels are to boxes and masks, and the nearest annotated tasks.",
        explanation_routes.ExplanationRecord,
        errors=(404, 409, 503),
        query=("label",),
    ),
    Operation(
        "post",
        f"{PROJECT}/train",
        "Start a training run now.",
        rest_responses.RunRecord,
        status=202,
        errors=(404,),
    ),
    Operation(
        "get",
        f"{PROJECT}/instructions",
        "Show what a model that writes is told, by control tag: set by hand, or kept from prompt boxes.",
        rest_responses.Instructions,
        errors=(404,),
    ),
    Operation(
        "put",
        f"{PROJECT}/instructions",
        "Set what a model that writes is told; null removes it.",
        rest_responses.Instructions,
        http_bodies.ChangeInstructions,
        errors=(400, 404, 413),
    ),
    Operation(
        "get",
        f"{PROJECT}/rules",
        "Show the rules that limit predictions, and what each has removed from the predictions of which tasks.",
        rule_routes.RulesRecord,
        errors=(400, 404),
        query=("limit", "task"),
    ),
    Operation(
        "put",
        f"{PROJECT}/rules",
        "Set the rules that limit predictions.",
        rule_routes.RulesRecord,
        rule_routes.SetRules,
        errors=(400, 404, 409, 413),
    ),
    Operation("delete", f"{PROJECT}/rules", "Remove the rules.", rule_routes.RulesRecord, errors=(404,)),
    Operation(
        "get",
        f"{PROJECT}/groups",
        "Show what annotators did with predictions, by a field of the tasks' data, and which groups differ.",
        group_routes.GroupsRecord,
        errors=(400, 404),
        query=("field",),
    ),
    Operation(
        "post",
        f"{PROJECT}/promote",
        "Make a version live.",
        rest_responses.LiveVersion,
        http_bodies.Promote,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "post",
        f"{PROJECT}/rollback",
        "Make the live version's parent live.",
        rest_responses.LiveVersion,
        errors=(404, 409),
    ),
)
