from lorabel.evaluation.missed_words import LONGEST_WORD, missed_words, most_important, words_of


def test_words_keep_their_spelling_and_lose_their_punctuation() -> None:
    text = "O'Neill said: \"Zorvek-2, Łódź – and Nimue's\" (3 %)."
    assert words_of(text) == ["O'Neill", "said", "Zorvek-2", "Łódź", "and", "Nimue's", "3"]


def test_scripts_without_spaces_and_endless_words_have_none() -> None:
    assert words_of("東京 is " + "x" * (LONGEST_WORD + 1)) == ["is"]


def test_missed_words_are_those_that_the_shown_text_lacks_whatever_their_case() -> None:
    assert missed_words("Send it to Zorvek, send Zorvek it.", "send it to four deck") == ["Zorvek"]
    assert missed_words("To Zorvek.", None) == ["To", "Zorvek"]


def test_the_most_frequent_words_come_first_and_of_equals_the_newest_in_their_newest_spelling() -> None:
    newest_first = [["Quill", "Zorvek"], ["Brel"], ["zorvek", "Tash"]]
    assert most_important(newest_first, 3) == ("Zorvek", "Quill", "Brel")
    assert most_important([["a", "A"], ["b"], ["b"]], 1) == ("b",), "a text counts once for a word"
