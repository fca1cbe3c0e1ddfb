"""How well the lines of text in pictures were found and read: character error rate and end-to-end F."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorabel.evaluation.box_matching import match_boxes
from lorabel.evaluation.metrics import Metrics
from lorabel.space_contracts import Corners

# A line counts as found if its box and the right box have at least this IoU.
LEAST_IOU = 0.5


@dataclass(frozen=True)
class ReadLine:
    """A line of text with its place.

    Args:
        label: index of its label; None for no label.
    """

    corners: Corners
    text: str
    label: int | None


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the least number of parts to insert, delete or replace to turn one text into the other.

    The parts of a `str` are its characters; those of a list are its words.
    """
    if first == second:
        return 0
    distances = list(range(len(second) + 1))
    for row, character in enumerate(first, 1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(second, 1):
            diagonal, distances[column] = (
                distances[column],
                min(distances[column] + 1, distances[column - 1] + 1, diagonal + (character != other)),
            )
    return distances[-1]


def text_lines(
    targets: Sequence[Sequence[ReadLine]], predicted: Sequence[Sequence[ReadLine]], labels: Sequence[str]
) -> Metrics:
    """Figures of all pictures together.

    `detection_f1`: lines found. `end_to_end_f1`: found, and the text is right, white space at its ends aside.
    `f1`, the primary: the label is right, too. `character_error_rate`: characters to change in the lines that were
    found, characters of true lines that were not, and of found lines that there are not, divided by the characters
    of the true lines; it may exceed 1. `label_accuracy`: of the lines found, those with the right label.

    Args:
        targets: the true lines of each picture.
        predicted: the found lines of each picture.
    """
    true_lines, found_lines = sum(map(len, targets)), sum(map(len, predicted))
    matched = read = right = labelled = errors = characters = 0
    for truth, guess in zip(targets, predicted, strict=True):
        pairs = match_boxes([line.corners for line in truth], [line.corners for line in guess], LEAST_IOU)
        characters += sum(len(line.text.strip()) for line in truth)
        missing = set(range(len(truth))) - {i for i, _ in pairs}
        extra = set(range(len(guess))) - {j for _, j in pairs}
        errors += sum(len(truth[i].text.strip()) for i in missing) + sum(len(guess[j].text.strip()) for j in extra)
        for i, j in pairs:
            distance = edit_distance(truth[i].text.strip(), guess[j].text.strip())
            is_label_right = truth[i].label == guess[j].label
            matched, errors, labelled = matched + 1, errors + distance, labelled + is_label_right
            read, right = read + (distance == 0), right + (distance == 0 and is_label_right)
    return Metrics(
        "f1",
        {
            "tasks": len(targets),
            "f1": _f1(right, true_lines, found_lines),
            "end_to_end_f1": _f1(read, true_lines, found_lines),
            "detection_f1": _f1(matched, true_lines, found_lines),
            "precision": matched / found_lines if found_lines else float(not true_lines),
            "recall": matched / true_lines if true_lines else float(not found_lines),
            "character_error_rate": errors / characters if characters else float(errors > 0),
            "label_accuracy": labelled / matched if matched else None,
            "lines": true_lines,
            "labels": list(labels),
        },
    )


def _f1(right: int, true_lines: int, found_lines: int) -> float:
    """F1; 1 where there is nothing to find and nothing was found."""
    return 2 * right / (true_lines + found_lines) if true_lines + found_lines else 1.0
