"""What may be written, token by token, against all the answers that a text allows."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorabel.families.generation import text_spans
from lorabel.families.generation.answer_forms import Answered, SpanForm
from lorabel.families.generation.constraints import (
    Constraint,
    Grammar,
    LabelledSpansGrammar,
    NumberGrammar,
    SpanGrammar,
    constrained,
)
from lorabel.families.generation.prompts import ChatTokenizer
from lorabel.families.generation.text_spans import Spans
from lorabel.families.generation.vocabulary import Vocabulary
from lorabel.text_contracts import WrittenText

END = 0
# Hebrew, a family that is one emoji of five characters, a thumb with a skin tone, an accent by itself.
UNICODE = "שלום עולם: 👨\u200d👩\u200d👧 and 👍🏽, e\u0301tude\r\nnext"

LONG_TEXT = " ".join(f"word{number}" for number in range(200))


def vocabulary(merges: tuple[str, ...] = ()) -> Vocabulary:
    """All bytes, and some longer tokens."""
    tokens = [bytes([value]) for value in range(256)] + [merge.encode() for merge in merges]
    bytes_of = {index + 1: token for index, token in enumerate(tokens)}
    return Vocabulary(bytes_of, {token: index for index, token in bytes_of.items()})


def write(grammar: Grammar, drawn: random.Random, words: Vocabulary, most: int = 400) -> bytes:
    """An answer of which each token is drawn from those that are allowed."""
    constraint, tokens = Constraint(grammar, words), list[int]()
    for _ in range(most):
        token = drawn.choice(constraint.allowed(tokens, {END}))
        if token == END:
            break
        tokens.append(token)
    return words.written(tokens)


def test_every_answer_that_may_end_is_a_span_and_no_character_is_divided() -> None:
    drawn, words = random.Random(1), vocabulary(("שלום", " עולם", "and ", "👨\u200d"))
    spans = Spans(UNICODE)
    for _ in range(200):
        written = write(SpanGrammar(UNICODE), drawn, words).decode()
        assert written in UNICODE and written == written.strip() and written
        assert not written.startswith(("\u200d", "🏽", "\u0301")) and not written.endswith("\u200d")
        assert not ("👨" in written) ^ ("👧" in written), "a family is one character to people"
        start, end = spans.characters(spans.place(written.encode()) or (0, 0))
        assert UNICODE[start:end] == written


def test_a_span_goes_on_from_each_place_where_it_is() -> None:
    words = vocabulary(("an", "ana", "anas"))
    constraint = Constraint(SpanGrammar("banana bananas"), words)
    tokens = [words.token_of[b"ban"[:1]], words.token_of[b"ana"], words.token_of[b"n"], words.token_of[b"a"]]
    assert constraint.allowed(tokens, {END}) == sorted({END, words.token_of[b" "], words.token_of[b"s"]})


def test_labelled_spans_are_read_back_and_do_not_overlap() -> None:
    drawn, words = random.Random(2), vocabulary((": ", "Person", "City", " Ada", " London"))
    text = "Ada: London\nAda  in Zoë's שלום 👍🏽."
    grammar = LabelledSpansGrammar(text, ("Person", "City", "City: old"))
    found = 0
    for _ in range(200):
        spans = grammar.read(write(grammar, drawn, words))
        found += len(spans)
        assert spans == sorted(spans)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
        assert all(text[start:end].strip() == text[start:end] and start < end for start, end, _ in spans)
    assert found > 100
    assert grammar.read(b"Person: Ada\nCity: London\nPerson: Ada") == [(0, 3, 0), (5, 11, 1), (12, 15, 0)]
    assert grammar.read(b"City: old: London") == [(5, 11, 2)]
    assert grammar.may_end(b"") and not grammar.may_end(b"Person: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("minimum", "maximum", "step", "right", "wrong"),
    [
        (0, 1, 0.1, ["0", "0.7", "1"], ["1.1", "-0.1", "0.15", "01", "1.", ""]),
        (-50, 250, 1, ["-50", "-3", "0", "250"], ["-51", "251", "2.5", "-", "--1"]),
        (None, None, 0.01, ["123456", "-0.25", "3.14"], ["1e9", "+1", ".5", "3.141"]),
        (1990, 2030, 1, ["1990", "2029"], ["199", "20290", "1989"]),
        (0.5, None, 0.5, ["0.5", "17.5"], ["0", "-1"]),
    ],
)
def test_numbers_are_within_their_bounds(
    minimum: float | None, maximum: float | None, step: float, right: list[str], wrong: list[str]
) -> None:
    decimals = len(f"{step:g}".partition(".")[2])
    grammar, words = NumberGrammar(minimum, maximum, decimals), vocabulary(("19", "202", "250"))
    for text in right:
        assert grammar.may_end(text.encode()), text
        for length in range(len(text)):
            rests = set(grammar.continuations(text[:length].encode()))
            assert text[length : length + 1].encode() in rests, (text, length)
    assert not any(grammar.may_end(text.encode()) for text in wrong)
    for seed in range(20):
        value = grammar.read(write(grammar, random.Random(seed), words, most=40))
        assert value is not None, "an answer never comes to where nothing goes on"


def test_only_allowed_tokens_are_left_and_rows_without_a_constraint_stay() -> None:
    words = vocabulary()
    constraint = Constraint(SpanGrammar("ab"), words)
    logits = torch.arange(257.0).repeat(2, 1)
    limited = constrained(logits, [(None, []), (constraint, [words.token_of[b"a"]])], {END})
    assert torch.equal(limited[0], logits[0])
    assert limited[1].isfinite().nonzero()[:, 0].tolist() == [END, words.token_of[b"b"]]
    assert torch.equal(constrained(logits, [(None, []), (None, [])], {END}), logits)


def test_a_byte_that_the_vocabulary_lacks_ends_the_answer() -> None:
    words = Vocabulary({1: b"a"}, {b"a": 1})
    assert Constraint(SpanGrammar("aé"), words).allowed([1], {END}) == [END]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_the_bytes_of_tokens_are_those_of_the_text(kind: str) -> None:
    special = ["<|end|>"]
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        pieces = [*special, *(f"<0x{value:02X}>" for value in range(256)), "▁", "a", "ש"]
        vocabulary_of_pieces = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocabulary_of_pieces, [], byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template="x")
    chat = ChatTokenizer.of(fast)
    text = "a שלום 👍🏽\n"
    words = Vocabulary.of(chat)
    assert words.written(chat.answer(text)) == text.encode()
    assert fast.eos_token_id not in words.bytes_of


class CountedLookups(dict[bytes, int]):
    """Tokens by their bytes; counts how often one is looked up."""

    count = 0

    def get(self, key: bytes, default: Any = None) -> Any:
        self.count += 1
        return super().get(key, default)


@pytest.mark.parametrize(
    ("grammar", "written"),
    [
        (SpanGrammar(LONG_TEXT), b""),
        (LabelledSpansGrammar(LONG_TEXT, ("City", "Person")), b"City:"),
        (LabelledSpansGrammar(LONG_TEXT, ("City", "Person")), b"City: "),
        (LabelledSpansGrammar(LONG_TEXT, ("City", "Person")), b"City: word7\nPerson:"),
    ],
)
def test_once_prepared_the_beginning_of_a_span_in_a_long_text_takes_no_search(
    grammar: Grammar, written: bytes
) -> None:
    words = vocabulary(("wor", " wor", "word8", " word9"))
    counted = CountedLookups(words.token_of)
    constraint = Constraint(grammar, Vocabulary(words.bytes_of, counted))
    constraint.prepare()
    counted.count = 0
    allowed = constraint.allowed([words.token_of[bytes([value])] for value in written], {END})
    assert words.token_of[b"wor" if written[-1:] in (b"", b" ") else b" wor"] in allowed
    assert counted.count == 0


class CountedReadings(dict[bytes, int]):
    """Tokens by their bytes; counts how often all are read."""

    count = 0

    def __iter__(self) -> Iterator[bytes]:
        self.count += 1
        return super().__iter__()


@pytest.mark.parametrize(
    "grammar", [NumberGrammar(0, 10_000, 2), SpanGrammar("a b"), LabelledSpansGrammar("a b", ("X",))]
)
def test_once_prepared_no_step_reads_the_whole_vocabulary(grammar: Grammar) -> None:
    """Of 120,000 tokens that takes 0.3 s."""
    words = vocabulary()
    counted = CountedReadings(words.token_of)
    constraint = Constraint(grammar, Vocabulary(words.bytes_of, counted))
    constraint.prepare()
    counted.count = 0
    write(grammar, random.Random(1), constraint.vocabulary)
    assert counted.count == 0


def test_once_prepared_the_places_of_a_text_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a text of 8,000 characters they take 8 ms of the thread that writes for everybody."""
    words = vocabulary()
    form = SpanForm("Ada lives in London.", 0, words)
    form.constraint.prepare()
    monkeypatch.delattr(text_spans, "_is_joined")
    tokens = [words.token_of[bytes([value])] for value in b"London"]
    output = form.output(Answered(tokens, [0.5] * 7, is_ended=True))
    assert isinstance(output, WrittenText) and (output.text, output.start) == ("London", 13)


def test_a_span_begins_after_the_one_before_it() -> None:
    words = vocabulary(("b c", " c", "c"))
    constraint = Constraint(LabelledSpansGrammar("a b c", ("X",)), words)

    def allowed(written: bytes) -> set[bytes]:
        tokens = [words.token_of[bytes([value])] for value in written]
        return {words.bytes_of[token] for token in constraint.allowed(tokens, ())}

    assert allowed(b"X: ") == {b"a", b"b", b"b c", b"c"}
    assert allowed(b"X: a\nX: ") == {b"b", b"b c", b"c"}
    assert allowed(b"X: a\nX:") == {b" ", b" c"}
    assert allowed(b"X: b\nX: ") == {b"c"}
