import pytest

from lorabel.label_studio.address import checked_address, split_page


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


@pytest.mark.parametrize(
    ("text", "base", "project"),
    [
        (" http://localhost:8080/projects/7/data?tab=3&task=9 ", "http://localhost:8080", 7),
        ("https://example.com/label-studio/projects/12/", "https://example.com/label-studio", 12),
        ("http://localhost:8080/projects/?page=1", "http://localhost:8080", None),
        ("http://localhost:8080/user/login/", "http://localhost:8080", None),
        ("https://example.com/projects/label-studio", "https://example.com/projects/label-studio", None),
        ("anything", "anything", None),
    ],
)
def test_the_address_of_a_page_is_divided(text: str, base: str, project: int | None) -> None:
    assert split_page(text) == (base, project)
