from lorabel.commands.proof import read_answer


def test_a_mask_is_shown_with_its_label_and_the_number_of_its_numbers() -> None:
    """Before, the finding was hundreds of numbers, and the label stood behind them."""
    value = {"format": "rle", "rle": list(range(600)), "brushlabels": ["car"]}
    prediction = {"result": [{"value": value}], "score": 0.5, "model_version": "p1.v0"}
    is_right, finding = read_answer({"task": {"id": 7}, "response": [prediction]}, "", "p1.v0")
    assert is_right
    assert "{'format': 'rle', 'rle': '600 numbers', 'brushlabels': ['car']} with score 0.50 by p1.v0" in finding
