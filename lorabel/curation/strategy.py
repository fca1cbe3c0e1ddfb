"""The strategies of active learning, by name. `lorabel.curation.sampling` computes the orders; this module imports
no numpy, so that the command line can list the names at once."""

from enum import StrEnum


class Strategy(StrEnum):
    """The rule by which unlabeled tasks are ordered.

    Attributes:
        AUTO: typical tasks first, then those that reduce the expected error most; renewed as annotations arrive.
        MARGIN: smallest lead of the best answer over the second best first.
        DIVERSITY: the task that is least like any task that is labeled or stands earlier in the order.
        RANDOM: random order.
    """

    AUTO = "auto"
    MARGIN = "margin"
    DIVERSITY = "diversity"
    RANDOM = "random"
