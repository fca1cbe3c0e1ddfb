"""Presidio's recognisers find what has right check digits or a word beside it, and names with a model of spaCy."""

import random
import re
import socket
import string
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

REASON = "the extra `presidio` is not installed: make test-presidio"
presidio_analyzer = pytest.importorskip("presidio_analyzer", reason=REASON)

from lorabel.commands.doctor import examine  # noqa: E402
from lorabel.database.store import Store  # noqa: E402
from lorabel.errors import SettingsError  # noqa: E402
from lorabel.recognizers import (  # noqa: E402
    OVERLAP,
    PIECE,
    LimitedPattern,
    Recognizers,
    SlowPatternError,
    _limit_time,
    pieces,
)
from lorabel.redaction import TIMED_OUT, Redactor  # noqa: E402
from lorabel.redactors import _recognizers, make_redactor  # noqa: E402
from lorabel.settings import Settings  # noqa: E402
from tests.name_models import SENTENCES, UNSEEN_NAMES, UNSEEN_PLACES, sentence, train_name_model  # noqa: E402

CARD = "4111 1111 1111 1111"
EVERYTHING = ("presidio",)


@pytest.fixture(scope="module")
def english() -> Recognizers:
    return Recognizers(EVERYTHING, "en", None, 0.4)


@pytest.fixture(scope="module")
def name_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_name_model(tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="module")
def with_names(name_model: Path) -> Recognizers:
    return Recognizers(EVERYTHING, "en", str(name_model), 0.4)


def found(recognizers: Recognizers, text: str) -> dict[str, str]:
    """Kind -> what is found, of the longest of those that overlap."""
    return {each.kind: text[each.start : each.end] for each in Redactor([], {}, recognizers).find(text)}


@pytest.mark.parametrize(
    ("entity", "secret", "wrong"),
    [
        ("CREDIT_CARD", CARD, "4111 1111 1111 1112"),
        ("IBAN_CODE", "GB33 BUKB 2020 1555 5555 55", "GB34 BUKB 2020 1555 5555 55"),
        ("UK_NHS", "401-023-2137", "401-023-2138"),
        ("CRYPTO", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyX"),
        ("MEDICAL_LICENSE", "BB1388568", "BB1388569"),
    ],
)
def test_what_has_check_digits_is_found_only_where_they_are_right(
    english: Recognizers, entity: str, secret: str, wrong: str
) -> None:
    assert found(english, f"It is 😀 {secret}, as I said.").get(entity) == secret
    assert entity not in found(english, f"It is 😀 {wrong}, as I said.")


@pytest.mark.parametrize(
    ("entity", "secret"),
    [
        ("PHONE_NUMBER", "+44 20 7031 3000"),
        ("PHONE_NUMBER", "(425) 882-9026"),
        ("US_SSN", "078-05-1126"),
        ("IP_ADDRESS", "192.168.17.42"),
        ("IP_ADDRESS", "2001:db8::ff00:42:8329"),
        ("MAC_ADDRESS", "00:1A:2B:3C:4D:5E"),
    ],
)
def test_what_has_a_form_of_its_own_is_found(english: Recognizers, entity: str, secret: str) -> None:
    assert found(english, f"It is {secret} since May.") == {entity: secret}


@pytest.mark.parametrize(
    ("entity", "text", "secret"),
    [
        ("US_BANK_NUMBER", "of my bank account 945456787654, please", "945456787654"),
        ("US_SSN", "my social security is 321459876, thanks", "321459876"),
        ("US_DRIVER_LICENSE", "the driver license H12234567, thanks", "H12234567"),
    ],
)
def test_digits_alone_are_found_where_a_word_says_what_they_are(
    english: Recognizers, entity: str, text: str, secret: str
) -> None:
    assert found(english, text).get(entity) == secret
    assert entity not in found(english, f"the parts {secret} of 12 pumps")


@pytest.mark.parametrize(
    "text",
    [
        "The meeting on 2026-11-28 at 10:00:00 took 45 minutes, see https://example.com/page.",
        "Version 1.2.3 of 12 packages, 1234567 bytes, order 20261128, born 01.02.1990",
        "",
        " \n ",
    ],
)
def test_ordinary_text_stays(english: Recognizers, text: str) -> None:
    assert found(english, text) == {}


def test_only_what_is_named_is_looked_for_also_what_presidio_does_not_look_for_by_itself() -> None:
    named = Recognizers(("IN_AADHAAR", "DATE_TIME", "US_SSN"), "en", None, 0.4)
    assert named.entities == ("DATE_TIME", "IN_AADHAAR", "US_SSN")
    text = f"card {CARD}, aadhaar 3123 4567 8909, on 2026-11-28, ssn 078-05-1126"
    answered = found(named, text)
    assert answered == {"IN_AADHAAR": "3123 4567 8909", "DATE_TIME": "2026-11-28", "US_SSN": "078-05-1126"}


def test_a_german_text_has_cards_and_what_is_named_for_germany() -> None:
    german = Recognizers(("presidio", "DE_TAX_ID"), "de", None, 0.4)
    text = f"Karte {CARD}, Steuer-ID 86095742719, Tel. +49 30 901820"
    assert found(german, text) == {
        "CREDIT_CARD": CARD,
        "DE_TAX_ID": "86095742719",
        "PHONE_NUMBER": "+49 30 901820",
    }
    assert "US_SSN" not in german.entities


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("PERSON",), "en", None, 0.4), "REDACT names PERSON.*names are found with REDACT_SPACY_MODEL"),
        ((("NO_SUCH",), "en", None, 0.4), "REDACT names NO_SUCH, which nothing finds.*US_SSN"),
        ((EVERYTHING, "xy", None, 0.4), "REDACT_LANGUAGE is 'xy'"),
        ((EVERYTHING, "en", "no_such_model", 0.4), "'no_such_model', which cannot be loaded; install the package"),
    ],
)
def test_what_cannot_be_found_is_said_at_the_start(arguments: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Recognizers(*arguments)


def test_a_model_of_another_language_is_refused(name_model: Path) -> None:
    with pytest.raises(SettingsError, match="a model for 'en'; expected one for REDACT_LANGUAGE=de"):
        Recognizers(EVERYTHING, "de", str(name_model), 0.4)


def test_less_certain_ones_are_left_out_as_it_is_set() -> None:
    text = "call 212-555-5555 or use 192.168.17.42"
    assert found(Recognizers(EVERYTHING, "en", None, 0.7), text) == {}
    assert len(found(Recognizers(EVERYTHING, "en", None, 0.3), text)) == 2


@pytest.mark.parametrize("place", [*range(PIECE - 40, PIECE + 40, 5), PIECE - OVERLAP, PIECE + OVERLAP])
def test_what_lies_where_a_long_text_is_cut_is_found_once_in_its_place(english: Recognizers, place: int) -> None:
    before = ("word " * PIECE)[:place].rstrip() + " "
    text = f"{before}{CARD} {'word ' * 300}"
    counts: Counter[str] = Counter()
    masked = Redactor([], {}, english).masked(text, counts)
    assert masked == text.replace(CARD, "0000 0000 0000 0000")
    assert counts == {"CREDIT_CARD": 1}


def test_pieces_cover_the_text_and_overlap_also_without_a_space() -> None:
    for text in ("word " * 5000, "x" * 20_000, "x" * PIECE, "", "ä " * 2600):
        cut = list(pieces(text))
        assert all(text.startswith(piece, start) for start, piece in cut)
        assert cut[0][0] == 0 and cut[-1][0] + len(cut[-1][1]) == len(text)
        for (start, piece), (following, _) in pairwise(cut):
            assert start < following <= start + len(piece) - OVERLAP
            assert len(piece) <= PIECE + OVERLAP


def test_half_a_surrogate_pair_and_zero_bytes_are_no_fault(english: Recognizers) -> None:
    text = f"\ud83d \0 {CARD} \udc00"
    assert found(english, text) == {"CREDIT_CARD": CARD}


def test_a_pattern_that_takes_too_long_is_no_reason_to_let_the_text_through(
    english: Recognizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runaway = presidio_analyzer.PatternRecognizer(
        "RUNAWAY", patterns=[presidio_analyzer.Pattern("runaway", r"(a+)+b$", 0.9)]
    )
    _limit_time(runaway)
    assert isinstance(runaway.patterns[0].compiled_regex, LimitedPattern)
    began = time.monotonic()
    with pytest.raises(SlowPatternError):
        runaway.analyze("a" * 3000, ["RUNAWAY"])
    assert time.monotonic() - began < 20

    registry = english._analyzer.registry
    monkeypatch.setattr(registry, "recognizers", [*registry.recognizers, runaway])
    monkeypatch.setattr(english, "entities", (*english.entities, "RUNAWAY"))
    counts: Counter[str] = Counter()
    masked = Redactor([], {}, english).masked("Anna " + "a" * 3000, counts)
    assert masked == "Xxxx " + "x" * 3000 and counts == {TIMED_OUT: 1}


def test_every_pattern_of_presidio_has_our_limit(english: Recognizers) -> None:
    patterns = [
        pattern for each in english._analyzer.registry.recognizers for pattern in getattr(each, "patterns", ())
    ]
    assert len(patterns) > 20
    assert all(isinstance(pattern.compiled_regex, LimitedPattern) for pattern in patterns)


@pytest.mark.parametrize(
    "text", ["a." * 10_000, "1 " * 10_000, "@" * 20_000, "DE12" * 5000, "1:" * 10_000, "+1" * 10_000]
)
def test_no_text_takes_long(english: Recognizers, text: str) -> None:
    began = time.process_time()
    english.find(text)
    assert time.process_time() - began < 20


def test_nothing_is_asked_of_the_network(english: Recognizers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    redactor = make_redactor(Settings(redact="presidio"))
    assert (
        redactor.masked(f"mail anna@some.example.com, {CARD}") == "mail xxxx@xxxx.xxxxxxx.xxx, 0000 0000 0000 0000"
    )


def test_words_of_texts_are_not_kept(with_names: Recognizers) -> None:
    chance = random.Random(0)
    words = ("".join(chance.choices(string.ascii_letters, k=12)) for _ in range(3000))
    with_names.find("My name is Anna Adler.")
    before = len(with_names._nlp.vocab.strings)
    for _ in range(10):
        with_names.find(" ".join(next(words) for _ in range(300)))
    assert len(with_names._nlp.vocab.strings) == before


def test_several_threads_find_the_same_one_after_the_other(
    english: Recognizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads in one zone of memory would free each other's words."""
    analyze, inside, most = english._analyzer.analyze, 0, 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)  # lets other threads in
        try:
            return analyze(*arguments, **options)
        finally:
            inside -= 1

    monkeypatch.setattr(english._analyzer, "analyze", count)
    texts = [f"text {number}: {CARD} or 192.168.17.{number} {'word ' * 200}" for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(english.find, texts))
    assert together == [english.find(text) for text in texts]
    assert all(len(each) >= 2 for each in together)
    assert most == 1


def test_recognisers_are_made_once_for_all_redactors_of_a_process() -> None:
    _recognizers.cache_clear()
    redactors = [make_redactor(Settings(redact="presidio,email")) for _ in range(3)]
    for redactor in redactors:
        redactor.load()
        assert redactor.masked(CARD) == "0000 0000 0000 0000"
    assert _recognizers.cache_info().misses == 1


def test_torch_is_not_loaded_for_it_and_can_be_loaded_afterwards() -> None:
    program = (
        "import sys\nfrom importlib.util import find_spec\nfrom lorabel.redactors import make_redactor\n"
        "from lorabel.settings import Settings\nmake_redactor(Settings(redact='presidio')).load()\n"
        "print({'torch', 'transformers'} & sys.modules.keys(), find_spec('torch') is None)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "set() False\n"


def test_names_and_places_that_the_model_has_not_seen_are_found_in_their_places(with_names: Recognizers) -> None:
    expected, hits, wrong = 0, 0, 0
    for number, pattern in enumerate(SENTENCES):
        name = UNSEEN_NAMES[number % len(UNSEEN_NAMES)]
        places = [UNSEEN_PLACES[number % 3], UNSEEN_PLACES[(number + 1) % 3]]
        text, spans = sentence(pattern, {"PERSON": [name], "GPE": places, "ORG": ["Zenith"]})
        truth = {(start, end) for start, end, _ in spans}
        answered = {(each.start, each.end) for each in with_names.find(text)}
        expected, hits, wrong = expected + len(truth), hits + len(truth & answered), wrong + len(answered - truth)
    assert expected == 17
    assert hits >= 16, f"{hits} of {expected}"
    assert wrong <= 1


def test_masked_names_leave_every_offset_where_it_was(with_names: Recognizers) -> None:
    redactor = Redactor(["email"], {}, with_names)
    text = "😀 Dear Marta Lindqvist, thank you for your letter. I spoke with Igor Havel about card " + CARD
    counts: Counter[str] = Counter()
    masked = redactor.masked(text, counts)
    assert counts == {"PERSON": 2, "CREDIT_CARD": 1}
    expected = text
    for secret, mask in (("Marta Lindqvist", "Xxxxx Xxxxxxxxx"), ("Igor Havel", "Xxxx Xxxxx")):
        expected = expected.replace(secret, mask)
    assert masked == re.sub(r"\d", "0", expected)
    assert len(masked.encode("utf-16")) == len(text.encode("utf-16"))


def test_places_stay_where_only_names_are_asked_for(name_model: Path) -> None:
    only = Recognizers(("PERSON",), "en", str(name_model), 0.4)
    assert only.entities == ("PERSON",)
    assert found(only, "My name is Marta Lindqvist and I live in Oslo.") == {"PERSON": "Marta Lindqvist"}


def test_the_doctor_says_what_is_found_or_why_it_cannot_be(
    settings: Settings, store: Store, name_model: Path
) -> None:
    addresses = {"port": 1, "model_server_url": "http://127.0.0.1:1", "redis_url": "redis://127.0.0.1:1"}
    nobody = settings.model_copy(update=addresses)

    def redaction(**changes: Any) -> tuple[bool, str]:
        checks = {check.name: check for check in examine(nobody.model_copy(update=changes))}
        return checks["redaction"].is_ok, checks["redaction"].finding

    is_ok, finding = redaction(redact="presidio", redact_spacy_model=str(name_model))
    assert is_ok and "PERSON" in finding and "CREDIT_CARD" in finding
    is_ok, finding = redaction(redact="presidio", redact_spacy_model="no_such_model")
    assert not is_ok and "python -m spacy download no_such_model" in finding
    is_ok, finding = redaction(redact="PERSON")
    assert not is_ok and "REDACT_SPACY_MODEL" in finding
