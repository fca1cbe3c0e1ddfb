"""The neural network of `token_classifier`: an encoder, and a head that compares words with label texts."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

# Name of the head's layer in `Tagger`.
HEAD = "head"
# Subtracted from every logit, so that an encoder without a trained head predicts no spans.
SILENCE = 2.0
# Multiplies cosines to give them the magnitude of logits.
SCALE = 16.0


class Tagger(nn.Module):
    """Encodes words and label texts, and turns the state of a word into two vectors: for BEGINS and for GOES_ON.

    The head starts as zeros, so it consists of LoRA's weights only.

    Args:
        encoder: a transformers encoder.
        dim: its hidden size.
    """

    encoder: Any

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dim, 2 * dim, bias=False)
        nn.init.zeros_(self.head.weight)

    def encode_words(self, tokens: Tensor, mask: Tensor, token_ranges: Tensor) -> Tensor:
        """Compute the state of each word: the mean of its tokens' states, then scaled to mean 0 and variance 1.

        The states are taken from the middle of the encoder. At the end of a sentence encoder every token has the
        state of the whole sentence.

        Args:
            tokens: (rows, seq) int64, padded.
            mask: (rows, seq) int64; 0 marks padding.
            token_ranges: (rows, words, 2) int64: first token of each word and the token after its last; (0, 0)
                marks padding.

        Returns:
            (rows, words, dim) float32 on the same device.
        """
        states = self.encoder(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        means = _token_means(states[len(states) // 2].float(), token_ranges)
        return functional.layer_norm(means, means.shape[-1:])

    def tag(self, word_states: Tensor) -> Tensor:
        """Apply the head.

        Args:
            word_states: (..., words, dim) float32 from `encode_words`.

        Returns:
            (..., words, 2, dim) float32: for each word the vectors for BEGINS and for GOES_ON.
        """
        tags: Tensor = self.head(word_states.to(self.head.weight.dtype))
        return tags.float().view(*tags.shape[:-1], 2, tags.shape[-1] // 2)

    def encode_texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute the features of label texts: the mean of their tokens' last states, scaled to length 1.

        Args:
            tokens: (rows, seq) int64, padded.
            mask: (rows, seq) int64; 0 marks padding.

        Returns:
            (rows, dim) float32 on the same device.
        """
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state.float() * mask[..., None]
        return functional.normalize(states.sum(1), dim=-1)


def word_logits(tags: Tensor, label_features: Tensor) -> Tensor:
    """Compare the words of a text with labels.

    Args:
        tags: (words, 2, dim) float32 from `Tagger.tag`.
        label_features: (labels, dim) float32 of length 1.

    Returns:
        (words, 2, labels) float32.
    """
    return SCALE * tags @ label_features.T - SILENCE


def _token_means(states: Tensor, token_ranges: Tensor) -> Tensor:
    """(rows, words, dim): the mean of (rows, seq, dim) over the tokens of each word, from cumulative sums."""
    sums = functional.pad(states.cumsum(1), (0, 0, 1, 0))
    first_sums, end_sums = (
        sums.gather(1, tokens[..., None].expand(-1, -1, states.shape[-1])) for tokens in token_ranges.unbind(-1)
    )
    token_counts = (token_ranges[..., 1:] - token_ranges[..., :1]).clamp(min=1)
    means: Tensor = (end_sums - first_sums) / token_counts
    return means
