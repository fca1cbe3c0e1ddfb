import pytest

from lorabel.label_studio.address import checked_address


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8080",
        "https://label.example.com",
        "http://projects",
        "https://example.com/label-studio",
        "https://example.com/projects/label-studio",
        "http://[::1]:8080",
    ],
)
def test_an_address_is_kept_without_its_last_slash(address: str) -> None:
    assert checked_address(address, "LABEL_STUDIO_URL") == address
    assert checked_address(f" {address}/", "LABEL_STUDIO_URL") == address
