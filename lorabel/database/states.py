"""States of events, versions and runs, and the kinds of bulk runs."""

from enum import StrEnum


class BulkRunKind(StrEnum):
    """What a bulk run does.

    `predictions`: predicts tasks and writes the predictions to Label Studio. `order`: puts the tasks without an
    annotation into an order, and writes that. `order_renewal`: does that again after new annotations, and writes
    what has changed. `label_errors`: looks for annotations that are probably wrong. `acceptance`: finds the scores
    from which on enough predictions are proved to be right, and makes those annotations. `acceptance_undo`: takes
    these back. `index`: embeds all tasks, so that search finds them.
    """

    PREDICTIONS = "predictions"
    ORDER = "order"
    ORDER_RENEWAL = "order_renewal"
    LABEL_ERRORS = "label_errors"
    ACCEPTANCE = "acceptance"
    ACCEPTANCE_UNDO = "acceptance_undo"
    INDEX = "index"


class EventState(StrEnum):
    """What became of a webhook event.

    `stale`: it changed nothing, since the database already had the same or a newer state. `ignored`: its action is
    unknown, or it belongs to no project with a known label config. `failed`: it could not be applied; the reason
    is in `Event.error`.
    """

    PENDING = "pending"
    APPLIED = "applied"
    STALE = "stale"
    IGNORED = "ignored"
    FAILED = "failed"


class VersionState(StrEnum):
    """State of a model version.

    `candidate`: trained and not live yet. `live`: predicts now; at most one version of a project is. `rejected`:
    scored worse than the live version. `retired`: was live once.
    """

    CANDIDATE = "candidate"
    LIVE = "live"
    REJECTED = "rejected"
    RETIRED = "retired"


class RunState(StrEnum):
    """State of a training run or bulk run; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
