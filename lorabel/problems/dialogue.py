"""`<Chat>`: the next turn of a dialogue about the task, which a model writes.

<Text name="manual" value="$manual"/>
<Chat name="chat" value="$messages"/>

A task has the dialogue so far: [{"role": "user", "content": "It leaks."}]. An annotation adds messages, each
{"type": "chatmessage", "value": {"chatmessage": {"role": "assistant", "content": "Close valve 3."}}}.

`Chat` is a tag of Label Studio Enterprise. The editor of the open-source edition (1.23.2) does not know it;
`docs/written-answers.md` says what to use there. The whole dialogue is one text in the user's turn of the prompt:
no message in a task can become an instruction, whatever its role.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from lorabel.contracts import Content, Contract, Input, Modality
from lorabel.errors import MissingTargetError, UnreadableError, UnservedError
from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.written_text import written_texts
from lorabel.labeling import regions
from lorabel.labeling.label_config import ControlTag, ObjectTag
from lorabel.labeling.task_content import MODALITIES, optional_contents
from lorabel.problems._answers import shown, values_of
from lorabel.problems.base import Prediction, Problem, Sample, TaskData
from lorabel.problems.instructions import own_instruction, project_instruction
from lorabel.text_contracts import TextInput, TextTarget, WrittenText

ASSISTANT = "assistant"
INSTRUCTION = "Write the assistant's next message in the dialogue."


@dataclass(frozen=True)
class Message:
    """A turn of a dialogue."""

    role: str
    content: str

    @property
    def line(self) -> str:
        """The turn in a text. Only its first line begins at the margin, so no content looks like another turn."""
        return f"{self.role}: " + "\n  ".join(self.content.strip().splitlines())


@dataclass(frozen=True)
class TurnTarget(TextTarget):
    """An assistant's turn that people kept.

    Args:
        before: the turns of the annotation before it.
    """

    before: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Dialogue(Problem):
    """The next turn of a dialogue.

    Attributes:
        chat: the object tag, which is the control tag, too.
        context: texts that the dialogue is about.
        instruction: says what to write.
    """

    name: ClassVar[str] = "dialogue"
    zero_shot: ClassVar[str] = "A language model writes the assistant's next turn, if the last one is not its own."
    learns: ClassVar[str] = "The last turn of the assistant in each annotation, after the turns before it."
    input_type: ClassVar[type[Input]] = TextInput
    output_type: ClassVar[type[Contract]] = WrittenText
    SAMPLES: ClassVar[tuple[Sample, ...]] = (
        Sample(
            label_config='<View><Text name="manual" value="$manual"/><Chat name="chat" value="$chat"/></View>',
            data={"manual": "Valve 3 stops the water.", "chat": [{"role": "user", "content": "It leaks."}]},
            result=[regions.chat_message("chat", ASSISTANT, "Close valve 3.")],
            opposite=[regions.chat_message("chat", ASSISTANT, "Open valve 3.")],
        ),
    )

    chat: ObjectTag
    context: tuple[ObjectTag, ...]
    instruction: str

    @classmethod
    def match(cls, control: ControlTag) -> Self | None:
        """Bind `Chat`; see `Problem.match`."""
        if control.tag != "ChatMessage" or [tag.tag for tag in control.objects] != ["Chat"]:
            return None
        unread = [tag for tag in control.context if MODALITIES.get(tag.tag) != Modality.TEXT]
        if unread:
            raise UnservedError(f"the task also shows {unread[0].tag} {unread[0].name!r}, and only texts are read")
        instruction = own_instruction(control) or control.header or INSTRUCTION
        return cls(control.name, control.name, control.objects[0], control.context, instruction)

    def for_project(self, extra_params: Mapping[str, Any]) -> Self:
        """Return the binding with the project's own instruction, if there is one."""
        instruction = project_instruction(self.from_name, extra_params)
        return replace(self, instruction=instruction) if instruction else self

    def model_input(self, data: TaskData) -> TextInput:
        """Ask for the turn after the dialogue of the task."""
        texts = [content for tag in self.context for content in optional_contents(tag, data)]
        transcript = "\n".join(message.line for message in self._of_task(data))
        dialogue = Content(modality=Modality.TEXT, text=transcript)
        return TextInput(contents=(*texts, dialogue), instruction=self.instruction, is_end_kept=True)

    def prompted(self, question: Input, context: Sequence[regions.Region]) -> Input | None:
        """Ask for the turn after the messages that the annotator has just added; see `Problem.prompted`."""
        if not context or context[-1].get("from_name") != self.from_name:
            return None
        try:
            added = self._messages(context)
        except MissingTargetError as error:
            raise UnreadableError(f"the messages cannot be read: {error}", is_permanent=True) from error
        _refuse_own_turn(added)
        return _after(question, added)

    def asked_for(self, question: Input, target: TurnTarget) -> Input:
        """Ask for the turn after the messages before it in the annotation; see `Problem.asked_for`."""
        return _after(question, target.before)

    def prediction(self, output: WrittenText, data: TaskData) -> Prediction:
        """Predict the next turn; nothing if it is empty."""
        messages = self._of_task(data)
        if not output.text or (messages and messages[-1].role == ASSISTANT):
            return Prediction([], 0.0)
        return Prediction([regions.chat_message(self.from_name, ASSISTANT, output.text)], output.probability)

    def target(self, result: list[regions.Region], data: TaskData) -> TurnTarget:
        """Return the last turn of the assistant, with the turns before it."""
        messages = self._messages(result)
        last = max(
            (index for index, each in enumerate(messages) if each.role == ASSISTANT and each.content.strip()),
            default=None,
        )
        if last is None:
            raise MissingTargetError(f"{self.from_name!r} has no turn of the assistant to learn from")
        return TurnTarget(messages[last].content.strip(), before=tuple(messages[:last]))

    def perfect_output(self, target: TurnTarget) -> WrittenText:
        """Return the turn itself with probability 1."""
        return WrittenText(text=target.text, probability=1.0)

    def metrics(self, targets: Sequence[TurnTarget], outputs: Sequence[WrittenText]) -> Metrics:
        """Compute the metrics of `lorabel.evaluation.written_text.written_texts`."""
        return written_texts([target.text for target in targets], [output.text for output in outputs])

    def _of_task(self, data: TaskData) -> list[Message]:
        """The dialogue so far, which may be empty.

        Raises:
            UnreadableError: for good; the data has no list of messages.
        """
        value = self.chat.shown(data)
        try:
            return [_message(item) for item in ([] if value == "" else value)]
        except (TypeError, MissingTargetError) as error:
            raise UnreadableError(
                f"task data has no messages under {self.chat.data_key!r}, expected a list of objects with role "
                f"and content (found {shown(value)})",
                is_permanent=True,
            ) from error

    def _messages(self, result: Sequence[regions.Region]) -> list[Message]:
        return [_message(value.get("chatmessage")) for value in values_of(result, self.from_name)]


def _message(value: Any) -> Message:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, dict) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise MissingTargetError(f"a message is {shown(value)}, expected an object with role and content")
    return Message(" ".join(role.split()), content)


def _refuse_own_turn(messages: Sequence[Message]) -> None:
    """Raise UnreadableError if the last turn is the assistant's: then the next is the annotator's."""
    if messages and messages[-1].role == ASSISTANT:
        raise UnreadableError("the last turn is the assistant's", is_permanent=True)


def _after(question: Input, messages: Sequence[Message]) -> Input:
    """The question with messages at the end of its dialogue."""
    *texts, dialogue = question.contents
    lines = [line for line in (dialogue.text, *(message.line for message in messages)) if line]
    content = dialogue.model_copy(update={"text": "\n".join(lines)})
    return question.model_copy(update={"contents": (*texts, content)})
