"""The figures of written texts on known pairs, and against the packages that compute them."""

from pathlib import Path

import nltk
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from lorabel.evaluation import written_text
from lorabel.evaluation.written_text import Words, vqa_accuracy, written_texts

# The sentences of Lin's paper (https://aclanthology.org/W04-1013, section 3.1): S2 and S3 against S1.
REFERENCE = "police killed the gunman"


@pytest.mark.parametrize(
    ("target", "text", "rouge_l", "token_f1", "exact"),
    [
        (REFERENCE, "police kill the gunman", 0.75, 0.75, 0),
        (REFERENCE, "the gunman kill police", 0.5, 0.75, 0),
        (REFERENCE, REFERENCE, 1.0, 1.0, 1),
        (REFERENCE, "Police killed the gunman!", 1.0, 1.0, 0),
        (REFERENCE, "", 0.0, 0.0, 0),
        ("a b", "c d", 0.0, 0.0, 0),
        ("Насос течёт сильно", "насос течёт", 0.8, 0.8, 0),
        ("泵漏水", "泵漏油", 2 / 3, 2 / 3, 0),
        ("P3; leak", "P3;leak", 1.0, 1.0, 0),
        ("👍", "👍", 1.0, 1.0, 1),
        ("👍", "👎", 0.0, 0.0, 0),
    ],
)
def test_known_pairs(target: str, text: str, rouge_l: float, token_f1: float, exact: int) -> None:
    values = written_texts([target], [text]).values
    figures = (values["rouge_l"], values["token_f1"], values["exact_match"])
    assert figures == pytest.approx((rouge_l, token_f1, exact))


def test_english_words_are_those_of_the_package() -> None:
    """The package stems nothing by default, so both tokenizers cut plain English alike."""
    pairs = [("The cat sat on the mat.", "A cat was on the mat"), ("One two, three four", "four three two one")]
    for target, text in pairs:
        expected = RougeScorer(["rougeL"]).score(target, text)["rougeL"].fmeasure
        assert written_texts([target], [text]).values["rouge_l"] == pytest.approx(expected)


def test_means_are_over_the_tasks() -> None:
    metrics = written_texts([REFERENCE, "yes"], [REFERENCE, ""])
    assert metrics.primary == "rouge_l"
    values = {name: value for name, value in metrics.values.items() if name not in ("meteor", "bleu")}
    assert values == {"tasks": 2, "answered": 1, "rouge_l": 0.5, "exact_match": 0.5, "token_f1": 0.5}
    assert written_texts([], []).values["rouge_l"] == 0.0


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert Words().tokenize("Tokyo 東京2024 ok") == ["tokyo", "東", "京", "2024", "ok"]


# The first example of NLTK's, from the paper on BLEU (https://aclanthology.org/P02-1040, section 2.1).
HYPOTHESIS = "It is a guide to action which ensures that the military always obeys the commands of the party"
REFERENCES = (
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
)


def test_bleu_is_that_of_sacrebleu_with_all_annotators_as_references() -> None:
    expected = sacrebleu.corpus_bleu([HYPOTHESIS], [[reference] for reference in REFERENCES]).score / 100
    values = written_texts([REFERENCES[0]], [HYPOTHESIS], [REFERENCES[1:]]).values
    assert values["bleu"] == pytest.approx(expected) and 0.4 < expected < 0.6
    alone = sacrebleu.corpus_bleu([HYPOTHESIS, "b c"], [[REFERENCES[0], "b c"]]).score / 100
    assert written_texts([REFERENCES[0], "b c"], [HYPOTHESIS, "b c"]).values["bleu"] == pytest.approx(alone)


@pytest.mark.parametrize(
    ("target", "text", "bleu"),
    [("Pumps", "Pumps", 1.0), ("泵漏水了", "泵漏水了", 1.0), ("a", "b", 0.0), ("a", "", 0.0)],
)
def test_bleu_of_short_texts(target: str, text: str, bleu: float) -> None:
    assert written_texts([target], [text]).values["bleu"] == pytest.approx(bleu)


def test_texts_count_as_near_as_they_are_to_the_nearest_answer() -> None:
    values = written_texts(["red", "a cat"], ["blue", "the dog"], [["blue"], ["the dog there"]]).values
    assert values["exact_match"] == 0.5
    assert values["token_f1"] == pytest.approx((1 + 0.8) / 2)


# Ten annotators, by the formula of the paper: of the ten choices of nine, the mean of min(1, agreeing / 3).
@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (["yes"] * 3 + ["no"] * 7, "yes", (3 * 2 / 3 + 7) / 10),
        (["yes"] * 2 + ["no"] * 8, "Yes.", (2 * 1 / 3 + 8 * 2 / 3) / 10),
        (["yes"] + ["no"] * 9, "yes", 9 * 1 / 3 / 10),
        (["yes"] * 4 + ["no"] * 6, "yes", 1.0),
        (["2"] * 10, "two", 1.0),
        (["the red ball"] * 10, "Red ball", 1.0),
        (["a"] * 10, "a", 1.0),
        (["no"] * 10, "", 0.0),
        (["yes", "yes"], "yes", 1.0),
        (["yes", "no"], "yes", 0.5),
    ],
)
def test_vqa_accuracy(answers: list[str], text: str, expected: float) -> None:
    assert vqa_accuracy(answers, text) == pytest.approx(expected)


def test_vqa_accuracy_is_of_the_tasks_that_several_have_answered() -> None:
    values = written_texts(["yes", "x"], ["yes", "y"], [["yes", "yes", "yes"], []]).values
    assert values["vqa_accuracy"] == 1.0
    assert "vqa_accuracy" not in written_texts(["x"], ["x"]).values


def write_wordnet(folder: Path) -> None:
    """A WordNet in its own file format of two nouns, `car` and `auto`, that mean the same."""
    folder.mkdir(parents=True)
    for part in ("adj", "adv", "noun", "verb"):
        for kind in ("index.{}", "data.{}", "{}.exc"):
            (folder / kind.format(part)).write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (folder / name).write_text("")
    synset = "00000000 06 n 02 car 0 auto 0 000 | a vehicle\n"
    (folder / "data.noun").write_text(synset)
    (folder / "index.noun").write_text("auto n 1 0 1 0 00000000  \ncar n 1 0 1 0 00000000  \n")
    (folder / "lexnames").write_text("".join(f"{index:02}\tnoun.artifact\t1\n" for index in range(7)))


def test_meteor_is_computed_where_wordnet_is_on_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all words match, the score is 1 minus the penalty: 0.5 * (chunks / words) ** 3."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    written_text._meteor.cache_clear()
    assert "meteor" not in written_texts(["a red car"], ["a red auto"]).values
    write_wordnet(tmp_path / "corpora" / "wordnet")
    written_text._meteor.cache_clear()
    values = written_texts(["a red car", "leaks"], ["a red auto", "leaking"]).values
    written_text._meteor.cache_clear()
    assert values["meteor"] == pytest.approx(((1 - 0.5 * (1 / 3) ** 3) + (1 - 0.5)) / 2)
