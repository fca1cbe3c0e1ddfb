import pytest
import torch
from torch import nn

from lorabel.families.encoders.attention import SeparateAttention, separate_attention


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["none", "causal", "bool", "padding"])
def test_separate_layers_give_the_same_outputs_as_the_fused_module(batch_first: bool, masked: str) -> None:
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    states = torch.randn(3, 7, 32) if batch_first else torch.randn(7, 3, 32)
    causal = torch.full((7, 7), float("-inf")).triu(1)
    masks = {
        "none": {},
        "causal": {"attn_mask": causal},
        "bool": {"attn_mask": causal.isinf()},
        "padding": {"key_padding_mask": torch.tensor([[False] * 7, [False] * 4 + [True] * 3, [False] * 7])},
    }[masked]
    expected, _ = fused(states, states, states, need_weights=False, **masks)
    output, weights = SeparateAttention(fused)(states, states, states, need_weights=False, **masks)
    torch.testing.assert_close(output, expected)
    assert weights is None


def test_keys_of_another_width_keep_their_own_weights() -> None:
    fused = nn.MultiheadAttention(32, 4, kdim=16, vdim=24, batch_first=True).eval()
    q, k, v = torch.randn(2, 3, 32), torch.randn(2, 5, 16), torch.randn(2, 5, 24)
    expected, _ = fused(q, k, v, need_weights=False)
    torch.testing.assert_close(SeparateAttention(fused)(q, k, v)[0], expected)


def test_every_fused_attention_inside_a_module_is_replaced() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2), nn.ModuleDict({"deep": nn.MultiheadAttention(16, 2)}))
    separate_attention(model)
    assert not any(isinstance(layer, nn.MultiheadAttention) for layer in model.modules())
    assert sum(isinstance(layer, SeparateAttention) for layer in model.modules()) == 2
