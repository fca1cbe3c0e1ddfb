"""Which words of a text, and which places of a picture, an explanation marks in the editor: the strongest."""

from collections.abc import Sequence

from lorabel.explanation_contracts import ContentWeights, Fit, WordWeight
from lorabel.explanations.explanation import ExplainedContent
from lorabel.labeling.explanation_regions import WeighedWord
from lorabel.space_contracts import Corners

# At most so many are marked, and none that weighs less than this share of the strongest.
MOST_WORDS, LEAST_OF_WORD = 5, 0.3
MOST_PLACES, LEAST_OF_PLACE = 3, 0.5

Cell = tuple[int, int]


def strongest_words(weights: ContentWeights, *, has_against: bool = True) -> list[WordWeight]:
    """Return the words that say most, the strongest first.

    Args:
        has_against: whether words that speak against the answer are among them.
    """
    largest = max((abs(word.weight) for word in weights.words), default=0.0)
    strong = [
        word for word in weights.words if _is_strong(word.weight, LEAST_OF_WORD * largest, has_against=has_against)
    ]
    return sorted(strong, key=lambda word: -abs(word.weight))[:MOST_WORDS]


def words_of(contents: Sequence[ExplainedContent], *, has_against: bool) -> list[WeighedWord]:
    """Return the words of a text in their order, each with whether it is marked.

    Args:
        contents: the text, as each control tag explains it. A word that is strong for one of them is marked.
        has_against: whether words that speak against the answer are marked, too.
    """
    spans: dict[tuple[int, int], bool | None] = {}
    for content in contents:
        for word in content.weights.words:
            spans.setdefault((word.start, word.end), None)
        strongest = strongest_words(content.weights, has_against=has_against)
        spans |= {(word.start, word.end): word.weight > 0 for word in strongest}
    text = next((content.text or "" for content in contents), "")
    return [WeighedWord(text[start:end], is_for) for (start, end), is_for in sorted(spans.items())]


def places_of(
    contents: Sequence[ExplainedContent], size: tuple[int, int], *, has_against: bool
) -> list[tuple[Corners, bool]]:
    """Return the places of a picture that say most, each with whether it speaks for the answer or against it.

    Args:
        contents: the picture, as each control tag explains it.
        size: its width and height in pixels.
        has_against: whether places that speak against the answer are among them.
    """
    of_contents = [_strongest_places(content.weights, size, has_against=has_against) for content in contents]
    return list(dict.fromkeys(place for places in of_contents for place in places))


def _strongest_places(
    weights: ContentWeights, size: tuple[int, int], *, has_against: bool
) -> list[tuple[Corners, bool]]:
    """The boxes around cells that lie beside each other and are strong, the strongest first."""
    cells = {
        (row, column): weight for row, of_row in enumerate(weights.heat) for column, weight in enumerate(of_row)
    }
    largest = max(map(abs, cells.values()), default=0.0)
    strong = {
        cell: weight
        for cell, weight in cells.items()
        if _is_strong(weight, LEAST_OF_PLACE * largest, has_against=has_against)
    }
    places = [
        (sum(abs(strong[cell]) for cell in group), _corners(group, weights, size), is_for)
        for is_for in (True, False)
        for group in _groups({cell for cell, weight in strong.items() if (weight > 0) is is_for})
    ]
    strongest = sorted(places, key=lambda place: -place[0])[:MOST_PLACES]
    return [(corners, is_for) for _, corners, is_for in strongest if corners is not None]


def _is_strong(weight: float, least: float, *, has_against: bool) -> bool:
    """Whether a weight of at least `least` speaks for the answer, or against it if that counts."""
    return weight != 0 and (weight if not has_against else abs(weight)) >= least


def _groups(cells: set[Cell]) -> list[set[Cell]]:
    """The cells divided so that those of a group are joined by their sides."""
    groups, left = [], set(cells)
    while left:
        group, edge = set[Cell](), {left.pop()}
        while edge:
            group |= edge
            beside = {
                (row + down, column + right)
                for row, column in edge
                for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))
            }
            edge = beside & left
            left -= edge
        groups.append(group)
    return groups


def _corners(cells: set[Cell], weights: ContentWeights, size: tuple[int, int]) -> Corners | None:
    """The box around cells as fractions of the picture; None if it is in the edge that the model adds."""
    left, top, right, bottom = (weights.fit or Fit.STRETCHED).seen(*size)
    high, wide = (bottom - top) / len(weights.heat), (right - left) / len(weights.heat[0])
    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    corners = (
        max((left + min(columns) * wide) / size[0], 0.0),
        max((top + min(rows) * high) / size[1], 0.0),
        min((left + (max(columns) + 1) * wide) / size[0], 1.0),
        min((top + (max(rows) + 1) * high) / size[1], 1.0),
    )
    return corners if corners[0] < corners[2] and corners[1] < corners[3] else None
