"""A tiny Whisper with random weights, whose tokens are bytes, and which hears a second at once."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from lorabel.families.transcription.speech_tokens import (
    END,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    START,
    TRANSCRIBE,
    TRANSLATE,
)

SPECIAL_TOKENS = (END, START, "<|en|>", "<|de|>", TRANSLATE, TRANSCRIBE, PREVIOUS, NO_SPEECH[0], NO_TIMESTAMPS)
HEARD_S = 1
FRAMES_PER_S, BANDS = 100, 16


def write_speech_model(folder: Path, is_multilingual: bool = True) -> str:
    """Write the model. Returns its source for `Speech.load`."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=BANDS, chunk_length=HEARD_S).save_pretrained(folder)
    end, start = symbols.index(END), symbols.index(START)
    config = WhisperConfig(
        vocab_size=len(symbols),
        num_mel_bins=BANDS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=HEARD_S * FRAMES_PER_S // 2,
        max_target_positions=64,
        # With the usual 0.02 the states of so small a model could not tell its tokens apart.
        init_std=0.2,
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    multilingual = {
        "lang_to_id": {token: symbols.index(token) for token in ("<|en|>", "<|de|>")},
        "task_to_id": {"transcribe": symbols.index(TRANSCRIBE), "translate": symbols.index(TRANSLATE)},
    }
    model.generation_config = GenerationConfig(
        is_multilingual=is_multilingual,
        decoder_start_token_id=start,
        no_timestamps_token_id=symbols.index(NO_TIMESTAMPS),
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        suppress_tokens=[*range(end + 1, len(symbols))],
        begin_suppress_tokens=[end],
        max_length=config.max_target_positions,
        **(multilingual if is_multilingual else {}),
    )
    model.save_pretrained(folder)
    return f"local-dir:{folder}"
