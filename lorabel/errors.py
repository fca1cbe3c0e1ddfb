"""One tree of exceptions. `backend/app.py` maps them to status codes in one table."""


class LorabelError(Exception):
    """Anything that we raise on purpose. The message says what was found, what was expected, what to do."""


class BadRequestError(LorabelError):
    """The caller sent something that cannot be understood; nothing was stored."""


class LabelConfigError(BadRequestError):
    """The label config cannot be parsed, or two problems claim the same control tag."""


class UnservedError(LorabelError):
    """A control tag that nobody serves as it stands in the label config: it is left alone, with this reason."""


class NotFoundError(LorabelError):
    """A project, version, run or adapter that does not exist."""


class ConflictError(LorabelError):
    """The state does not allow it, such as a rollback where there is nothing to go back to."""


class SettingsError(LorabelError):
    """A setting is wrong or contradicts another one."""


class PluginError(LorabelError):
    """A problem or a family, ours or another package's, that cannot be imported or lacks what it must define."""


class RunLostError(LorabelError):
    """A training run whose lease ended while it was computing: what it made must not be used."""


class MissingTargetError(LorabelError):
    """An annotation that teaches nothing about a control tag, and why: it is skipped, not failed."""


class UnreadableError(LorabelError):
    """Media that could not be read. `is_permanent` tells whether asking again can help.

    A forbidden address, a failed or slow download may work later; a broken or oversized file never will.
    """

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class ModelServerError(LorabelError):
    """The model server could not be reached or answered with an error."""


class ModelServerBusyError(ModelServerError):
    """The model server's queue is full: ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LabelStudioError(LorabelError):
    """Label Studio could not be reached, or refused what we asked."""


class LabelStudioRefusedError(LabelStudioError):
    """Label Studio answered with an error status. `detail` is its own explanation."""

    def __init__(self, message: str, *, status_code: int, detail: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.detail = detail
