"""What problems share whose answers are findings, each with a label and a score: boxes, segments, tracks.

Outputs have a field with findings, and a `threshold`, the smallest score of a finding that is shown. Scores are
calibrated for each label by whether findings are right.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lorabel.labeling.label_config import Label
from lorabel.problems._label_scores import tempered
from lorabel.problems.base import Case, Problem


@dataclass(frozen=True)
class ScoredFindings(Problem):
    """Base class of problems whose answers are findings.

    Attributes:
        findings: name of the field of outputs with the findings.
        labels: the labels that findings may have.
    """

    findings: ClassVar[str]

    labels: tuple[Label, ...]

    @abstractmethod
    def right(self, output: Any, target: Any) -> Sequence[bool | None]:
        """Return for each finding that is shown whether it is right; None if nobody knows.

        Args:
            output: of which all findings are shown.
        """

    def shown(self, output: Any) -> Any:
        """Return the output with those findings alone that are shown."""
        found = [found for found in getattr(output, self.findings) if found.probability >= output.threshold]
        return output.model_copy(update={self.findings: tuple(found)})

    def distributions(self, output: Any) -> Sequence[Sequence[float]]:
        """Return for each finding the probabilities that it is wrong and that it is right."""
        return [(1 - found.probability, found.probability) for found in getattr(output, self.findings)]

    def cases(self, output: Any, target: Any) -> Sequence[Case]:
        """Return for each finding that is shown whether it is right; those of which nobody knows are left out."""
        shown = self.shown(output)
        findings = zip(getattr(shown, self.findings), self.right(shown, target), strict=True)
        return [
            Case((1 - found.probability, found.probability), int(is_right), self.labels[found.label].value)
            for found, is_right in findings
            if is_right is not None
        ]

    def calibrated(self, output: Any, temperature: float) -> Any:
        """Apply the temperature to each finding, and to the threshold: the same findings are shown."""
        threshold = _tempered(output.threshold, temperature) if output.threshold > 0 else 0.0
        tempered_output = self._with_temperatures(output, [temperature] * len(self.labels))
        return tempered_output.model_copy(update={"threshold": threshold})

    def calibrated_by_label(
        self, output: Any, temperature: float, by_label: Mapping[str, float], *, is_for_threshold: bool
    ) -> Any:
        """Apply to each finding the temperature of its label; see `Problem.calibrated_by_label`."""
        kept = output if is_for_threshold else self.shown(output)
        if not getattr(kept, self.findings):
            return self.calibrated(output, temperature)
        temperatures = [by_label.get(label.value, temperature) for label in self.labels]
        return self._with_temperatures(kept, temperatures).model_copy(update={"threshold": 0.0})

    @property
    def has_threshold(self) -> bool:
        """Return True: findings have scores."""
        return True

    def with_threshold(self, output: Any, threshold: float) -> Any:
        """Return the output with another threshold."""
        return output.model_copy(update={"threshold": threshold})

    def _with_temperatures(self, output: Any, temperatures: Sequence[float]) -> Any:
        findings = tuple(
            found.model_copy(update={"probability": _tempered(found.probability, temperatures[found.label])})
            for found in getattr(output, self.findings)
        )
        return output.model_copy(update={self.findings: findings})


def _tempered(probability: float, temperature: float) -> float:
    return tempered((1 - probability, probability), temperature)[1]
