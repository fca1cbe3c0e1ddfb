"""What the code offers is in the documents, and what they link to is there."""

import re
from pathlib import Path

import pytest

from tests.docs_tables import PAGES, ROOT, TABLES, fill_in

DECISION_PARTS = ("## Context", "## Choice", "## What else was weighed")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
# A command in backticks, or on a line by itself with variables or a comment.
MAKE = re.compile(r"`make ([a-z-]+)|^make ([a-z-]+)(?= *$| +#| +[A-Z]+=)", re.MULTILINE)
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
# Taken from the real Label Studio by the browser test, before a release.
NOT_YET = {"docs/pictures/label-studio.png"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    text = page.read_text()
    assert text == fill_in(text), f"{page.name} has an old table: run `make docs`"


def test_every_table_is_in_some_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"<!-- table: {name} -->\n" in text for name in TABLES)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = {str((page.parent / link).resolve().relative_to(ROOT)) for link in LINK.findall(page.read_text())}
    assert [link for link in sorted(links - NOT_YET) if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_are_those_of_the_makefile(page: Path) -> None:
    targets = TARGET.findall((ROOT / "Makefile").read_text())
    named = {in_line or alone for in_line, alone in MAKE.findall(page.read_text())}
    assert named - {*targets} == set()


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = (ROOT / "README.md").read_text().split("```")[1]
    assert [line.split()[:2] for line in opening.strip().splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_says_what_was_chosen_and_what_else_was_weighed(page: Path) -> None:
    text = page.read_text()
    assert re.fullmatch(r"\d{4}(-[a-z0-9]+)+", page.stem)
    assert text.startswith(f"# {page.stem[:4]}: ")
    assert all(part in text for part in DECISION_PARTS)


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(page.stem[:4]) for page in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
