"""What tells Label Studio's projects apart: each Label Studio counts its projects from 1.

`/setup` and `/predict` name a project as `12.1795324321`: its id, and its creation time in whole seconds since
1970 (`_create_project_uid` in Label Studio 1.23.2). Webhook events and the API have the time to the microsecond.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NewType, Self

LabelStudioId = NewType("LabelStudioId", int)
"""Id of a project in its Label Studio. It may differ from our own id of the project (`Project.id`)."""


@dataclass(frozen=True)
class ProjectKey:
    """What a request says about the identity of its project.

    Attributes:
        created_at: when the project was created in Label Studio, in UTC. Without microseconds if the request has
            whole seconds; None if the request does not have the time.
        hostname: Label Studio's address for itself, which `/setup` carries.
        url: Label Studio's address as given to `lorabel connect`.
    """

    label_studio_id: LabelStudioId
    created_at: datetime | None = None
    hostname: str | None = None
    url: str | None = None

    @classmethod
    def parse(cls, text: str, hostname: str | None = None) -> Self:
        """Read Label Studio's own key, `12.1795324321`. The creation time may be missing.

        Raises:
            ValueError: the text is something else.
        """
        number, _, seconds = text.partition(".")
        if not _is_number(number) or not _is_number(seconds or "0"):
            raise ValueError(f"{text[:40]!r} is no project; expected '<id>.<created at>' such as '12.1795324321'")
        try:
            created_at = datetime.fromtimestamp(int(seconds), UTC) if seconds else None
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"{seconds[:40]!r} is no time in seconds since 1970") from None
        return cls(LabelStudioId(int(number)), created_at, hostname)

    def __str__(self) -> str:
        created = f", created {self.created_at:%Y-%m-%d %H:%M:%S} UTC" if self.created_at else ""
        address = self.url or self.hostname
        return f"project {self.label_studio_id} of Label Studio{f' at {address}' if address else ''}{created}"


def is_same_second(first: datetime, second: datetime) -> bool:
    return first.replace(microsecond=0) == second.replace(microsecond=0)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
