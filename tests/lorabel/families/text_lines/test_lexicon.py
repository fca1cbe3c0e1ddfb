"""The words of a project: which readings are changed, and that right ones are not."""

import json
import random
from pathlib import Path

from lorabel.evaluation.text_metrics import edit_distance
from lorabel.families.text_lines.lexicon import Lexicon, Reading, learn_lexicon

# What rapidocr 3.10 read in drawn pages of foreign names that were blurred by 1.6 pixels: page, reading,
# confidence, and what was written there.
BLURRED = Path(__file__).parents[3] / "data" / "blurred_readings.json"
NAMES = ("Smörgås", "Weißwürste", "Jalapeño Salsa", "Crème Brûlée", "Pølsevogn", "Ærtesuppe")
PLAIN = str.maketrans("öåßüñèûéøÆ", "oaBunèuèoA")


def readings(pictures: int, seed: int) -> list[Reading]:
    """Lines with a name and an amount. Every other name is read without its accents, with less confidence."""
    dice = random.Random(seed)
    found = []
    for picture in range(pictures):
        for _ in range(4):
            truth = f"{dice.choice(NAMES)} {dice.randrange(100, 999) / 100:.2f}"
            is_wrong = dice.random() < 0.5
            text = truth.translate(PLAIN) if is_wrong else truth
            found.append(
                Reading(picture, text, dice.uniform(0.7, 0.9) if is_wrong else dice.uniform(0.85, 1), truth)
            )
    return found


def errors(lines: list[Reading], lexicon: Lexicon) -> int:
    return sum(edit_distance(lexicon.corrected(line.text, line.probability), line.truth) for line in lines)


def test_corrected_readings_are_learned_and_right_ones_are_not_changed() -> None:
    lexicon = learn_lexicon(readings(20, seed=0))
    unseen = readings(20, seed=1)
    before, after = errors(unseen, Lexicon()), errors(unseen, lexicon)
    assert before > 50 and after < 0.2 * before
    assert lexicon.errors_after < 0.3 * lexicon.errors_before
    for line in unseen:
        if line.text == line.truth:
            assert lexicon.corrected(line.text, line.probability) == line.truth


def test_the_character_error_rate_of_real_readings_falls_on_pages_that_nobody_annotated() -> None:
    """From 0.039 to 0.0045, measured; no right reading is changed."""
    lines = [Reading(*row) for row in json.loads(BLURRED.read_text())]
    lexicon = learn_lexicon([line for line in lines if line.picture < 7])
    unseen = [line for line in lines if line.picture >= 7]
    characters = sum(len(line.truth) for line in unseen)
    before, after = errors(unseen, Lexicon()) / characters, errors(unseen, lexicon) / characters
    assert before > 0.03 and after < 0.01
    for line in unseen:
        if line.text == line.truth:
            assert lexicon.corrected(line.text, line.probability) == line.truth


def test_a_single_picture_changes_nothing_since_no_other_can_judge() -> None:
    lexicon = learn_lexicon(readings(1, seed=0))
    assert lexicon.below == 0.0
    assert lexicon.corrected("Smorgas", 0.1) == "Smorgas"


def test_where_a_change_would_do_harm_less_sure_readings_alone_are_changed() -> None:
    """ "Lund" and "Land" are both right, and each is in one picture only."""
    lines = [Reading(0, "Lund", 0.9, "Lund"), Reading(1, "Land", 0.9, "Land")]
    lines += [Reading(picture, "Bakory", 0.6, "Bakery") for picture in range(2)]
    lexicon = learn_lexicon(lines)
    assert 0.6 < lexicon.below <= 0.9
    assert lexicon.corrected("Bakory", 0.6) == "Bakery"
    assert lexicon.corrected("Lind", 0.7) == "Lind", "two words are as near"
    only_harm = learn_lexicon(lines[:2])
    assert only_harm.below == 0.0


def test_numbers_are_never_written_or_changed() -> None:
    lexicon = Lexicon(("2026-08-13", "Bakery", "12.46"), below=1.0)
    for text in ("2026-08-18", "12.48", "6.00", "1046"):
        assert lexicon.corrected(text, 0.1) == text
    learned = learn_lexicon([Reading(0, "Table 12", 0.5, "Table 12")])
    assert learned.words == ("Table",)
    odd = [Reading(0, "Bakery", 0.5, text) for text in ("Bak\ud83dry shop", "Bakery\nshop", "")]
    assert learn_lexicon(odd).words == ("Bakery", "shop")


def test_a_space_that_was_lost_is_put_back() -> None:
    lexicon = Lexicon(("Bakery", "Corner", "Corner Bakery"), below=0.9)
    assert lexicon.corrected("CornerBakery", 0.8) == "Corner Bakery"
    assert lexicon.corrected("CornerBakery", 0.95) == "CornerBakery"
    assert lexicon.corrected("Cormer 12", 0.8) == "Corner 12"
    assert lexicon.corrected("", 0.1) == ""


def test_a_line_without_spaces_is_no_word_to_remember() -> None:
    """Chinese has no spaces, and a word is kept under all that is left of it without two of its letters."""
    line = "".join(chr(0x4E00 + number) for number in range(60))
    lexicon = learn_lexicon([Reading(0, line, 0.5, line), Reading(1, "Bakery", 0.5, "Bakery")])
    assert lexicon.words == ("Bakery",)
