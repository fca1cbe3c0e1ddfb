"""All exceptions that Lorabel raises on purpose. `backend/app.py` maps them to HTTP status codes in one table."""

# Longer reasons are cut: task data that they quote can have megabytes.
MOST_REASON_CHARACTERS = 400


def short_reason(error: BaseException) -> str:
    """The reason for REST and the log: the message, cut if it is long; with the type if it is no error of ours."""
    return cut(str(error) if isinstance(error, LorabelError) else f"{type(error).__name__}: {error}")


def cut(text: str, most: int = MOST_REASON_CHARACTERS) -> str:
    """The first characters of a text, and `...` if it has more."""
    return f"{text[:most]}..." if len(text) > most else text


def storable(reason: str) -> str:
    """A text as every database stores it: PostgreSQL stores neither lone surrogates nor zero bytes."""
    return reason.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


class LorabelError(Exception):
    """Base class. The message says what was found, what was expected, and what to do."""


class BadRequestError(LorabelError):
    """The caller sent a request that cannot be understood. Nothing was stored."""


class LabelConfigError(BadRequestError):
    """The label config cannot be parsed, or two problems claim the same control tag."""


class RulesError(BadRequestError):
    """The file of a project's rules cannot be read, or does not fit its label config. A line for each fault."""


class UnservedError(LorabelError):
    """No problem can serve a control tag of the label config. The tag is skipped; the message is the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message))


class ForgedEventError(LorabelError):
    """A webhook event without the secret of its project's webhook. Nothing was stored."""


class ForbiddenFormError(LorabelError):
    """A form was not sent from a page of ours."""


class NotFoundError(LorabelError):
    """A project, version, run or adapter does not exist."""


class ConflictError(LorabelError):
    """The present state does not allow the request, such as a rollback when the base models are live."""


class SettingsError(LorabelError):
    """A setting is wrong or contradicts another setting."""


class RedactionError(LorabelError):
    """A text could not be masked (REDACT), so nothing of it was stored. The message quotes nothing of the text."""


class SecretKeyError(SettingsError):
    """A token in the database cannot be decrypted with the keys of this process, or there is no such key."""


class DatabaseUnusableError(LorabelError):
    """The database cannot be opened, or is no database of this version of Lorabel."""


class PluginError(LorabelError):
    """A module of a problem or a family cannot be imported, or does not define what it must define.

    The module may be ours or another package's.
    """


class RunLostError(LorabelError):
    """The lease of a training run ended while the run was computing. Its result must not be used."""


class MissingTargetError(LorabelError):
    """An annotation has no training target for a control tag, and is skipped. The message is the reason."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message))


class NoAreaError(MissingTargetError):
    """A region has a place, and no area within the picture."""


class UnreadableError(LorabelError):
    """Media could not be read. The message goes to logs and to REST, so it never quotes what was fetched.

    Attributes:
        is_permanent: True if a second attempt cannot help, as for a broken or too large file. False if it may, as
            for a forbidden address or a failed or slow download.
    """

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(cut(message))
        self.is_permanent = is_permanent


class ModelServerError(LorabelError):
    """The model server could not be reached or answered with an error, whose status is `status_code`."""

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class ModelServerBusyError(ModelServerError):
    """The model server's queue is full. The caller should try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestTooLargeError(ModelServerError):
    """The model server does not take a request with so many rows or bytes. It may take a part of it."""


class LabelStudioError(LorabelError):
    """Label Studio could not be reached, or refused a request."""


class LabelStudioRefusedError(LabelStudioError):
    """Label Studio answered with an error status. `detail` is the explanation in its answer."""

    def __init__(self, message: str, *, status_code: int, detail: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.detail = detail
