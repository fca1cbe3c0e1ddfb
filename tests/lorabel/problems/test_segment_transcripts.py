from typing import Any

import numpy as np
import pytest

from lorabel.errors import MissingTargetError
from lorabel.labeling.regions import Region, about_segment, sound_segment, textarea
from lorabel.problems.binding import bind
from lorabel.problems.instructions import WORDS
from lorabel.problems.segment_transcripts import MOST_SEGMENTS, TranscriptsOfSegments
from lorabel.problems.segments_in_time import SegmentsInTime
from lorabel.text_contracts import SegmentTextsTarget, SegmentTranscripts, WrittenText
from lorabel.time_contracts import SegmentsInput
from workers.calibration import calibrate

LABELS = '<Labels name="label" toName="audio"><Label value="Speech"/><Label value="Noise"/></Labels>'
AUDIO = '<Audio name="audio" value="$audio"/>'
TEXT = '<TextArea name="text" toName="audio" perRegion="true"{}/>'
DATA = {"audio": "/data/upload/1/talk.wav"}
LENGTH_S = 9.5


def served(config: str = LABELS + AUDIO + TEXT.format("")) -> TranscriptsOfSegments:
    bindings = bind(f"<View>{config}</View>").bindings
    (binding,) = (each for each in bindings if isinstance(each, TranscriptsOfSegments))
    return binding


def segment(id_: str, start: float, end: float) -> Region:
    return {**sound_segment("label", "audio", (start, end), LENGTH_S, ["Speech"]), "id": id_}


def said(id_: str, start: float, end: float, *texts: str) -> list[Region]:
    drawn = segment(id_, start, end)
    return [drawn, about_segment(drawn, textarea("text", "audio", texts))]


def answer(*texts: str) -> SegmentTranscripts:
    return SegmentTranscripts(answers=tuple(WrittenText(text=text, probability=0.6) for text in texts))


def test_the_text_of_a_segment_has_its_id_its_place_and_the_length_of_the_sound() -> None:
    drawn = segment("a", 0.5, 2.25)
    binding = served().about([drawn, {"from_name": "other", "id": "x", "value": {"start": 1, "end": 2}}])
    assert binding is not None and binding.model_input(DATA).segments == ((0.5, 2.25),)
    prediction = binding.prediction(answer("Good morning."), DATA)
    (region,) = prediction.regions
    assert region == {
        "id": "a",
        "from_name": "text",
        "to_name": "audio",
        "type": "textarea",
        "original_length": LENGTH_S,
        "value": {"start": 0.5, "end": 2.25, "channel": 0, "text": ["Good morning."]},
        "score": 0.6,
    }
    assert (
        prediction.score == 0.6
        and bind(f"<View>{LABELS}{AUDIO}{TEXT.format('')}</View>").config.find_region_errors(region) == []
    )


def test_a_segment_in_which_nobody_speaks_has_no_text() -> None:
    binding = served().about([segment("a", 0, 1), segment("b", 1, 2)])
    assert binding is not None
    assert [region["id"] for region in binding.prediction(answer("", "Yes."), DATA).regions] == ["b"]
    assert binding.prediction(answer("", ""), DATA).regions == []


def test_segments_beside_such_a_text_area_are_what_is_said_without_a_pause() -> None:
    def question(config: str) -> SegmentsInput:
        bindings = bind(f"<View>{LABELS}{AUDIO}{config}</View>").bindings
        (binding,) = (each for each in bindings if isinstance(each, SegmentsInTime))
        return binding.model_input(DATA)

    assert question(TEXT.format("")).is_of_speech
    assert not question("").is_of_speech
    assert not question('<TextArea name="text" toName="audio" required="true"/>').is_of_speech


def test_the_first_of_two_text_areas_gets_the_texts() -> None:
    bound = bind(f"<View>{LABELS}{AUDIO}{TEXT.format('')}{TEXT.format('').replace('text', 'translation')}</View>")
    assert [binding.from_name for binding in bound.bindings] == ["label", "text"]
    assert "the texts of segments go into 'text'" in bound.unclaimed[0].reason


def test_an_annotation_teaches_the_texts_of_its_segments_in_the_order_of_time() -> None:
    result = [*said("b", 3, 4, "Good", "night."), *said("a", -0.5, 2, " Good morning. "), segment("c", 5, 6)]
    target = served().target(result, DATA)
    assert target == SegmentTextsTarget(((0.0, 2.0), (3.0, 4.0)), ("Good morning.", "Good\nnight."))
    assert target.left_out == ("region 'c': 'text' was left empty",)
    question = served(LABELS + AUDIO + TEXT.format(' hint="Names: Zorvek"')).model_input(DATA)
    assert question.words == ("Zorvek",)
    asked = served().asked_for(question, target)
    assert asked == question.model_copy(update={"words": (), "segments": target.segments})


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], "no segment was answered in 'text'"),
        ([segment("a", 0, 1)], "'text' was left empty"),
        (said("a", 0, 1, "  "), "'text' was left empty"),
        (said("a", 2, 1, "Yes."), "it has no start and end in seconds"),
        ([{**textarea("text", "audio", ["Yes."]), "id": "a"}], "it has no start and end in seconds"),
        ([{"from_name": "text", "id": "a", "value": {"start": "x", "end": 2, "text": 7}}], "expected texts"),
        ([{"from_name": "text", "id": 7, "value": None}], "has the value None"),
    ],
)
def test_an_annotation_without_a_text_that_can_be_used_has_a_reason(result: Any, reason: str) -> None:
    with pytest.raises(MissingTargetError, match=reason):
        served().target(result, DATA)


def test_what_is_wrong_in_one_segment_does_not_take_the_others_away() -> None:
    broken = [{"from_name": "text", "id": "x", "value": {"start": 0, "end": 2, "text": 7}}]
    target = served().target([*broken, *said("a", 0, 1, "Yes.")], DATA)
    assert target.texts == ("Yes.",) and "expected texts" in target.left_out[0]
    many = [part for number in range(MOST_SEGMENTS + 2) for part in said(f"{number}", number, number + 1, "Yes.")]
    target = served().target(many, DATA)
    assert len(target.texts) == MOST_SEGMENTS and "2 segments more" in target.left_out[0]


def test_word_errors_are_counted_over_the_segments_of_all_tasks() -> None:
    binding = served()
    targets = [
        SegmentTextsTarget(((0.0, 1.0), (1.0, 2.0)), ("one two", "three four")),
        SegmentTextsTarget(((0.0, 1.0),), ("five",)),
    ]
    values = binding.metrics(targets, [answer("one two", "three for"), answer("")]).values
    assert (values["tasks"], values["segments"]) == (2, 3)
    assert values["word_error_rate"] == pytest.approx(2 / 5)
    cases = binding.cases(answer("one two", "three for"), targets[0])
    assert [case.true_index for case in cases] == [0, 1]


def test_drawn_segments_without_a_text_are_gone_on_with_and_keep_the_texts_that_are_there() -> None:
    binding = served()
    complete, begun = said("a", 0, 1, "Yes."), segment("b", 1, 2)
    assert binding.begun([]) == binding.begun([complete]) == binding.begun([[begun], complete]) == []
    empty = about_segment(segment("c", 2, 3), textarea("text", "audio", []))
    regions = binding.begun([complete, [*complete, begun, segment("c", 2, 3), empty, {"from_name": "gone"}]])
    assert regions == [*complete, begun, segment("c", 2, 3)]
    asked = binding.about(regions)
    assert asked is not None and asked.model_input(DATA).segments == ((1.0, 2.0), (2.0, 3.0))
    predicted = asked.prediction(answer("No.", "Why?"), DATA).regions
    assert [(region["id"], region["value"]["text"]) for region in predicted] == [
        ("a", ["Yes."]),
        ("b", ["No."]),
        ("c", ["Why?"]),
    ]


@pytest.mark.parametrize("text", [5, [5], None, {"text": 1}, [None]])
def test_of_an_annotation_with_a_text_that_is_none_nothing_is_gone_on_with(text: Any) -> None:
    odd = about_segment(segment("a", 0, 1), textarea("text", "audio", []))
    odd["value"]["text"] = text
    assert served().begun([[segment("a", 0, 1), odd, segment("b", 1, 2)]]) == []


def test_a_region_that_two_tags_label_is_asked_about_once() -> None:
    who = '<Labels name="who" toName="audio"><Label value="A"/></Labels>'
    binding = served(LABELS + who + AUDIO + TEXT.format(""))
    both = [segment("a", 0, 1), {**segment("a", 0, 1), "from_name": "who"}, segment("b", 1, 2), segment("c", 2, 2)]
    asked = binding.about(both)
    assert asked is not None and asked.model_input(DATA).segments == ((0.0, 1.0), (1.0, 2.0))
    predicted = asked.prediction(answer("Yes.", "No."), DATA).regions
    assert [region["id"] for region in predicted] == ["a", "b"]


def test_words_that_people_put_into_texts_are_told() -> None:
    result = [*said("a", 0, 1, "Ask Zorvek."), *said("b", 1, 2, "He knows Tashnovi.")]
    missed = served().missed_words(result, said("a", 0, 1, "Ask the. He knows"))
    assert missed == ["Zorvek", "Tashnovi"]
    binding = served().for_project({WORDS: {"text": missed}})
    assert binding.model_input(DATA).words == ("Zorvek", "Tashnovi")


def test_scores_of_texts_are_calibrated_by_whether_those_of_held_out_segments_were_right() -> None:
    """Half of all texts are right, whose tokens are likely, but hardly more than those of wrong ones."""
    rng = np.random.default_rng(1)
    binding, targets, outputs = served(), [], []
    for _ in range(40):
        is_right = rng.random(5) < 0.5
        chances = np.clip(rng.normal(np.where(is_right, 0.85, 0.75), 0.04), 0.01, 0.99)
        spans = tuple((float(number), number + 0.5) for number in range(5))
        targets.append(SegmentTextsTarget(spans, ("Good morning.",) * 5))
        outputs.append(
            SegmentTranscripts(
                answers=tuple(
                    WrittenText(text="Good morning." if right else "Could mourning.", probability=chance)
                    for right, chance in zip(is_right.tolist(), chances.tolist(), strict=True)
                )
            )
        )
    calibration = calibrate(binding, targets, outputs, 10)
    assert calibration is not None and calibration.ece_before is not None and calibration.ece_after is not None
    assert calibration.ece_before > 0.25 and calibration.ece_after < 0.1
    wrong, right = (
        binding.calibrated_with_offset(
            SegmentTranscripts(answers=(WrittenText(text="x", probability=chance),)),
            calibration.temperature,
            calibration.offset,
        )
        .answers[0]
        .probability
        for chance in (0.75, 0.85)
    )
    assert wrong < 0.3 < 0.7 < right
