import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import textarea
from lorabel.problems.binding import bind
from lorabel.problems.instructions import WORDS
from lorabel.problems.transcripts import Transcripts
from lorabel.text_contracts import TextTarget, TranscriptInput, WrittenText

AUDIO = '<Audio name="audio" value="$audio"/>'
TEXT = '<TextArea name="text" toName="audio"{}/>'
CHOICES = '<Choices name="c" toName="audio"><Choice value="a"/></Choices>'
DATA = {"audio": "/data/upload/1/talk.wav"}


def served(config: str) -> Transcripts:
    (binding,) = (each for each in bind(f"<View>{config}</View>").bindings if isinstance(each, Transcripts))
    return binding


@pytest.mark.parametrize(
    "config",
    [
        AUDIO + TEXT.format(""),
        AUDIO + TEXT.format(' required="true"') + '<Choices name="c" toName="audio"><Choice value="a"/></Choices>',
        AUDIO + TEXT.format("") + TEXT.format(' perRegion="true"').replace("text", "other"),
    ],
)
def test_a_text_area_of_a_whole_sound_is_its_transcript(config: str) -> None:
    binding = served(config)
    assert (binding.from_name, binding.to_name) == ("text", "audio")
    (content,) = binding.model_input(DATA).contents
    assert content.media is not None and content.media.url == DATA["audio"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            TEXT.format("") + CHOICES,
            "it may be for notes",
        ),
        (TEXT.format(' value="$draft"'), "the editor fills it in"),
        (TEXT.format(' perRegion="true"'), "perRegion: no <Labels> draws segments on 'audio'"),
    ],
)
def test_other_text_areas_are_left_to_people_with_the_reason(config: str, reason: str) -> None:
    (unclaimed,) = bind(f"<View>{AUDIO}{config}</View>").unclaimed
    assert unclaimed.control.name == "text" and reason in unclaimed.reason


def test_the_first_of_two_text_areas_gets_the_transcript() -> None:
    bound = bind(f"<View>{AUDIO}{TEXT.format('')}{TEXT.format('').replace('text', 'translation')}</View>")
    assert [binding.from_name for binding in bound.bindings] == ["text"]
    assert "the transcript goes into 'text'" in bound.unclaimed[0].reason


def test_nothing_is_predicted_where_nobody_speaks() -> None:
    prediction = served(AUDIO + TEXT.format("")).prediction(WrittenText(text="", probability=0.9), DATA)
    assert prediction.regions == [] and prediction.score == 0.0


def test_lines_are_one_transcript_and_an_empty_answer_is_none() -> None:
    binding = served(AUDIO + TEXT.format(""))
    assert binding.target([textarea("text", "audio", [" Good morning. ", "", "Bye."])], DATA) == TextTarget(
        "Good morning.\nBye."
    )
    with pytest.raises(MissingTargetError, match="was left empty"):
        binding.target([textarea("text", "audio", ["  "])], DATA)


def test_a_score_is_calibrated_by_whether_at_most_a_tenth_of_the_words_was_wrong() -> None:
    binding = served(AUDIO + TEXT.format(""))
    target = binding.aggregate(
        [TextTarget("one two three four five six seven eight nine ten"), TextTarget("other")]
    )
    assert target == TextTarget("other", others=("one two three four five six seven eight nine ten",))
    for text, index in (("one two three four five six seven eight nine tan", 0), ("one two three", 1)):
        (case,) = binding.cases(WrittenText(text=text, probability=0.8), target)
        assert case.true_index == index and case.distribution == pytest.approx((0.8, 0.2))
    assert binding.cases(WrittenText(text="", probability=0.8), target) == ()


def test_the_words_of_the_config_come_before_those_of_the_project() -> None:
    config = "<View>" + AUDIO + TEXT.format(' hint="Names: Zorvek, O\'Neill"') + "</View>"
    words = {WORDS: {"text": ["Tashnovi"], "other": ["Brelquin"]}}
    (binding,) = bind(config).for_project(words).bindings
    question = binding.model_input(DATA)
    assert isinstance(question, TranscriptInput) and question.words == ("Zorvek", "O'Neill", "Tashnovi")
    (binding,) = bind(config.replace("Names: ", "Write down ")).for_project(None).bindings
    assert isinstance(binding, Transcripts) and binding.words == (), "a hint without a colon lists nothing"


def test_training_and_evaluation_ask_without_words() -> None:
    binding = served(AUDIO + TEXT.format(' hint="Names: Zorvek"'))
    asked = binding.asked_for(binding.model_input(DATA), TextTarget("Call Zorvek."))
    assert isinstance(asked, TranscriptInput) and asked.words == ()


def test_missed_words_of_annotations_that_cannot_be_read_are_none() -> None:
    binding = served(AUDIO + TEXT.format(""))
    right, shown = [textarea("text", "audio", ["Call Zorvek."])], [textarea("text", "audio", ["Call four."])]
    assert binding.missed_words(right, shown) == ["Zorvek"]
    assert binding.missed_words(right, None) == binding.missed_words(right, []) == ["Call", "Zorvek"]
    assert binding.missed_words([textarea("other", "audio", ["Zorvek"])], None) == []
    assert binding.missed_words([{"from_name": "text", "value": None}], None) == []
    assert binding.missed_words("broken", shown) == []
