"""The loss of a training run by step, thinned so that its row stays small."""

MOST_POINTS = 200


class LossCurve:
    """`[step, loss]` of the steps of a control tag, at even distances. Not thread-safe.

    When there are more than MOST_POINTS, every second is dropped, and from then on only half as many are kept.
    """

    def __init__(self) -> None:
        self._points: list[list[float]] = []
        self._stride = 1
        self._seen = 0

    def add(self, step: int, loss: float) -> None:
        """Note the loss after a step."""
        if self._seen % self._stride == 0:
            self._points.append([step, loss])
        self._seen += 1
        if len(self._points) > MOST_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def points(self) -> list[list[float]]:
        """The points so far, the first step first."""
        return list(self._points)
