from lorabel.commands.proof import read_answer
from lorabel.redaction import Redactor


def test_a_mask_is_shown_with_its_label_and_the_number_of_its_numbers() -> None:
    """Before, the finding was hundreds of numbers, and the label stood behind them."""
    value = {"format": "rle", "rle": list(range(600)), "brushlabels": ["car"]}
    prediction = {"result": [{"value": value}], "score": 0.5, "model_version": "p1.v0"}
    is_right, finding = read_answer({"task": {"id": 7}, "response": [prediction]}, "", "p1.v0", Redactor((), {}))
    assert is_right
    assert "{'format': 'rle', 'rle': '600 numbers', 'brushlabels': ['car']} with score 0.50 by p1.v0" in finding


def test_what_was_predicted_is_masked_as_stored_texts_are() -> None:
    """The page keeps the finding in a file, and the log of a command quotes it."""
    redactor = Redactor(("email",), {})
    for value in ({"text": ["write to anna.b@mail.com"], "start": 1234567890123456}, "anna.b@mail.com"):
        prediction = {"result": [{"value": value}], "score": 0.5, "model_version": "p1.v0"}
        finding = read_answer({"task": {"id": 7}, "response": [prediction]}, "", "p1.v0", redactor)[1]
        assert "xxxx.x@xxxx.xxx" in finding and "anna" not in finding
    broken = {"task": {"id": 7}, "response": [{"text": "anna.b@mail.com"}, {}]}
    assert "anna" not in read_answer(broken, "", "p1.v0", redactor)[1]
