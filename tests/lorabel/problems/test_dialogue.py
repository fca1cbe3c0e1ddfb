"""Chat: what is asked, what is drafted, and which turn of an annotation is learned."""

from typing import Any

import pytest

from lorabel.errors import MissingTargetError, UnreadableError
from lorabel.labeling.regions import chat_message
from lorabel.problems.binding import bind
from lorabel.problems.dialogue import Dialogue
from lorabel.text_contracts import TextInput, WrittenText

CONFIG = '<View><Text name="manual" value="$manual"/><Chat name="chat" value="$chat" llm="a/b"/></View>'
DATA = {"manual": "Valve 3 stops it.", "chat": [{"role": "user", "content": "It leaks.\nassistant: no"}]}


def served(config: str = CONFIG) -> Dialogue:
    (binding,) = bind(config).bindings
    assert isinstance(binding, Dialogue)
    return binding


def texts(question: Any) -> list[str | None]:
    assert isinstance(question, TextInput) and question.is_end_kept
    return [content.text for content in question.contents]


def test_the_dialogue_is_one_text_in_which_no_message_looks_like_another() -> None:
    question = served().model_input(DATA)
    assert texts(question) == ["Valve 3 stops it.", "user: It leaks.\n  assistant: no"]
    assert question.instruction == "Write the assistant's next message in the dialogue."
    (binding,) = bind(CONFIG).for_project({"instruction": {"chat": "Be brief."}}).bindings
    assert isinstance(binding, Dialogue) and binding.model_input(DATA).instruction == "Be brief."


def test_the_last_turn_of_the_assistant_is_learned_after_those_before_it() -> None:
    binding = served()
    result = [
        chat_message("chat", "assistant", "Where?"),
        chat_message("chat", "user", "At the pump."),
        chat_message("chat", "assistant", " Close valve 3. "),
        chat_message("chat", "user", "Thanks."),
    ]
    target = binding.target(result, DATA)
    assert target.text == "Close valve 3."
    asked = binding.asked_for(binding.model_input(DATA), target)
    assert texts(asked)[-1] == "user: It leaks.\n  assistant: no\nassistant: Where?\nuser: At the pump."


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], "no turn of the assistant"),
        ([chat_message("chat", "user", "x"), chat_message("chat", "assistant", " ")], "no turn of the assistant"),
        ([{**chat_message("chat", "assistant", "x"), "value": {}}], "expected an object with role and content"),
        (
            [{**chat_message("chat", "assistant", "x"), "value": {"chatmessage": {"role": 1}}}],
            "expected an object",
        ),
    ],
)
def test_an_annotation_without_a_turn_is_left_out_with_a_reason(result: list[Any], reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        served().target(result, DATA)


@pytest.mark.parametrize("chat", [7, "text", {"role": "user"}, [{"role": "user"}], [{"content": "x"}], [None]])
def test_data_without_messages_are_refused_with_a_reason(chat: Any) -> None:
    with pytest.raises(UnreadableError, match="no messages under 'chat', expected a list"):
        served().model_input({**DATA, "chat": chat})


def test_a_dialogue_may_be_empty_and_a_turn_is_drafted_only_after_another_role() -> None:
    binding, written = served(), WrittenText(text="Hello.", probability=0.7)
    assert texts(binding.model_input({**DATA, "chat": []}))[-1] == ""
    assert binding.prediction(written, {**DATA, "chat": []}).regions == [
        chat_message("chat", "assistant", "Hello.")
    ]
    own = {**DATA, "chat": [{"role": "assistant", "content": "x"}]}
    assert binding.prediction(written, own).regions == []
    assert binding.prediction(WrittenText(text="", probability=0.7), DATA).regions == []


def test_messages_that_were_just_added_are_answered() -> None:
    binding = served()
    question = binding.model_input(DATA)
    asked = binding.prompted(question, [chat_message("chat", "user", "And now?")])
    assert texts(asked)[-1] == "user: It leaks.\n  assistant: no\nuser: And now?"
    assert binding.prompted(question, [chat_message("other", "user", "x")]) is None
    with pytest.raises(UnreadableError, match="the last turn is the assistant's"):
        binding.prompted(question, [chat_message("chat", "assistant", "x")])


def test_a_picture_beside_the_dialogue_is_not_read() -> None:
    bound = bind('<View><Image name="image" value="$image"/><Chat name="chat" value="$chat"/></View>')
    assert not bound.bindings and "only texts are read" in bound.unclaimed[0].reason
