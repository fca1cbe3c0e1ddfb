"""Whether a Label Studio is new enough."""

import re

from lorabel.errors import LabelStudioError
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import Server

# The first with personal access tokens.
OLDEST = (1, 18)
VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})")


def require_version(label_studio: LabelStudio) -> Server:
    """Version and clock of a Label Studio. A version that cannot be read is not refused.

    Raises:
        LabelStudioError: it is older than OLDEST, or cannot be reached.
    """
    server = label_studio.server()
    numbers = VERSION.match(server.version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise LabelStudioError(
            f"Label Studio at {label_studio.url} is version {server.version}, expected {oldest} or newer: update"
        )
    return server
