import pytest
import torch

from lorabel.errors import SettingsError
from lorabel.families.device import choose_device
from lorabel.settings import Settings


@pytest.mark.parametrize(
    ("predictions", "training", "expected"),
    [("cpu", None, "cpu"), ("cpu", "meta", "meta"), ("meta", "cpu", "cpu")],
)
def test_training_uses_the_device_of_predictions_unless_the_settings_name_another(
    predictions: str, training: str | None, expected: str
) -> None:
    settings = Settings(device=predictions, train_device=training)
    assert choose_device(settings) == torch.device(predictions)
    assert choose_device(settings.for_training) == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "cuda:x"])
def test_the_error_for_an_unknown_device_names_the_settings(name: str) -> None:
    with pytest.raises(SettingsError, match=f"DEVICE or TRAIN_DEVICE is '{name}', which is no device"):
        choose_device(Settings(device=name))
