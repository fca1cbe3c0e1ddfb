"""Masks hide what they should, keep every offset, and leave ordinary text alone."""

import time
from collections import Counter
from importlib.util import find_spec

import pytest

from lorabel.errors import RedactionError, SettingsError
from lorabel.redaction import KINDS, TIMED_OUT, Redactor, compile_pattern, masked_part
from lorabel.redactors import make_redactor
from lorabel.settings import Settings
from tests.finders import WordFinder

ALL = Redactor(KINDS, {})


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("email", "anna.b+tag@mail.example.com"),
        ("email", "jürgen@müller.de"),
        ("phone", "+49 30 1234567"),
        ("phone", "0049-30-1234567"),
        ("phone", "(030) 123 45 67"),
        ("phone", "555-123-4567"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "378282246310005"),
        ("ip", "192.168.17.42"),
        ("ip", "2001:db8::ff00:42:8329"),
        ("phone", "+49\u00a030\u00a01234567"),
        ("phone", "030\u00a0123\u202f4567"),
        ("phone", "1-555-123-4567"),
        ("phone", "01.23.45.67.89"),
        ("iban", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000"),
        ("iban", "de89 3704 0044 0532 0130 00"),
        ("iban", "DE89-3704-0044-0532-0130-00"),
        ("credit_card", "4111\u00a01111\u202f1111 1111"),
    ],
)
def test_each_kind_is_masked_and_nothing_around_it(kind: str, secret: str) -> None:
    text = f"Écrit 😀 to {secret}, or write to the shop."
    counts: Counter[str] = Counter()
    masked = Redactor([kind], {}).masked(text, counts)
    assert masked.startswith("Écrit 😀 to ") and masked.endswith(", or write to the shop.")
    assert secret not in masked
    kept = [
        (was, now) for was, now in zip(text, masked, strict=True) if was.isalnum() and was != "x" and was == now
    ]
    assert {was for was, _ in kept if was not in "Écrittoorwritetotheshop0"} == set()
    assert len(masked.encode("utf-16")) == len(text.encode("utf-16"))
    assert counts == {kind: 1}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("10.1.2.3:8080", "00.0.0.0:8080"),
        ("client:10.1.2.3.", "client:00.0.0.0."),
        ("::ffff:10.1.2.3", "::ffff:00.0.0.0"),
        ("Tel:030 1234567", "Tel:000 0000000"),
        ("Phone:555-123-4567", "Phone:000-000-0000"),
        ("IBAN:DE89 3704 0044 0532 0130 00", "IBAN:XX00 0000 0000 0000 0000 00"),
    ],
)
def test_what_stands_at_a_colon_is_masked(text: str, masked: str) -> None:
    assert ALL.masked(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "born 01.02.1990, moved in on 03/04/95 at 09:15:00, left 05-06-2020 10:30",
        "chapter 1.2.3.4.5; so10 people came along with us today and we had much to talk about",
        "The meeting on 2026-11-28 at 10:00:00 took 45 minutes.",
        "Version 1.2.3 of 12 packages, 1234567 bytes, order 20261128.",
        "4111 1111 1111 1112 has a wrong check digit, and so has DE88 3704 0044 0532 0130 00.",
        "999.1.1.1 is no address; std::vector::size neither.",
        "a@b, @home, me@ and user@localhost",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert ALL.masked(text) == text


def test_what_is_masked_is_not_counted_again() -> None:
    text = "anna@mail.com +49 30 1234567 4111 1111 1111 1111"
    once = ALL.masked(text)
    counts: Counter[str] = Counter()
    assert ALL.masked(once, counts) == once and not counts


def test_an_own_pattern_is_masked_under_its_name() -> None:
    counts: Counter[str] = Counter()
    redactor = Redactor([], {"customer": r"C-\d{6}"})
    assert redactor.masked("for C-123456 and 🔑", counts) == "for X-000000 and 🔑"
    assert counts == {"customer": 1}


def test_what_overlaps_is_masked_as_a_whole_and_counted_once_as_the_longest() -> None:
    counts: Counter[str] = Counter()
    finder = WordFinder({"Anna Bell 4111": "PERSON", "Bell": "LOCATION"})
    redactor = Redactor(["credit_card", "email"], {"street": r"Bell \d{4} \d{4}"}, finder)
    masked = redactor.masked("to Anna Bell 4111 1111 1111 1111, a@b.de", counts)
    assert masked == "to Xxxx Xxxx 0000 0000 0000 0000, x@x.xx"
    assert counts == {"credit_card": 1, "email": 1}
    assert redactor.secrets("Anna Bell 4111 1111 1111 1111") == ["Anna Bell 4111 1111 1111 1111"]


def test_of_two_kinds_that_are_as_long_the_more_certain_one_is_counted() -> None:
    counts: Counter[str] = Counter()
    Redactor([], {"mine": "Bell"}, WordFinder({"Bell": "PERSON"})).masked("Bell", counts)
    assert counts == {"mine": 1}


def test_a_finder_that_fails_lets_nothing_through_and_its_error_says_nothing_of_the_text() -> None:
    redactor = Redactor(["email"], {}, WordFinder({}, fault="Anna"))
    with pytest.raises(RedactionError, match=r"a text of 9 characters .*ValueError at finders.py:\d+") as caught:
        redactor.masked("Anna Bell")
    assert "Anna" not in str(caught.value)
    assert caught.value.__context__ is None
    withheld = redactor.masked_message("Anna Bell")
    assert "withheld" in withheld and "Anna" not in withheld
    assert redactor.masked_message("a@b.de") == "x@x.xx"
    assert redactor.by_patterns().masked("Anna at a@b.de") == "Anna at x@x.xx"


def test_a_pattern_that_takes_too_long_has_the_whole_text_masked() -> None:
    counts: Counter[str] = Counter()
    began = time.monotonic()
    masked = Redactor([], {"runaway": r"(a+)+b$"}).masked("a" * 5000 + " secret", counts)
    assert "secret" not in masked and counts == {TIMED_OUT: 1}
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_no_built_in_kind_takes_long_in_a_long_text() -> None:
    for text in ("a." * 50_000, "1 " * 50_000, "@" * 100_000, "DE12" * 25_000, "1:" * 50_000, "+1" * 50_000):
        began = time.process_time()
        ALL.masked(text)
        assert time.process_time() - began < 20, text[:4]


def test_a_pattern_that_fits_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="fits an empty text"):
        compile_pattern("x*")


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="REDACT has 'emial'; expected some of email"):
        Settings(redact="emial")
    with pytest.raises(ValueError, match="'mine' is no regular expression"):
        Settings(redact_patterns={"mine": "("})
    with pytest.raises(ValueError, match="REDACT_SPACY_MODEL is set, and REDACT names nothing that it finds"):
        Settings(redact="email", redact_spacy_model="en_core_web_sm")


def test_emails_are_found_by_our_pattern_also_where_presidio_is_asked_for_them() -> None:
    for redact in ("presidio", "EMAIL_ADDRESS, US_SSN"):
        settings = Settings(redact=redact)
        assert settings.redacted_kinds == ["email"]
        assert settings.redacted_entities == (("presidio",) if redact == "presidio" else ("US_SSN",))
    assert Settings(redact="EMAIL_ADDRESS").redacted_entities == ()
    assert not Settings(redact="email,phone").redacted_entities


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_without_presidio_what_to_install_is_said_and_nothing_is_let_through() -> None:
    redactor = make_redactor(Settings(redact="presidio"))
    with pytest.raises(SettingsError, match=r"REDACT names presidio.*install lorabel\[presidio\]"):
        redactor.load()
    assert "Anna" not in redactor.masked_message("Anna")


def test_a_part_that_begins_inside_of_a_secret_shows_nothing_of_it() -> None:
    secrets = ALL.secrets("mail anna@mail.com now")
    assert masked_part("mail.com now", secrets) == "xxxx.xxx now"
    assert masked_part("mail anna@", secrets) == "mail xxxx@"
    assert masked_part("anna", secrets) == "xxxx"
