"""Attention with separate linear layers for q, k and v. It replaces torch's fused `nn.MultiheadAttention`.

open_clip builds both towers from the fused module, which multiplies with one packed weight. Neither our LoRA
layers nor PEFT's mixed batches can change that weight per row. The separate layers have the same weights, so the
outputs are the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SeparateAttention(nn.Module):
    """Multi-head attention with the weights and the call signature of an `nn.MultiheadAttention`.

    Args:
        fused: the module to replace; its weights are copied.

    Raises:
        ValueError: the module has `bias_k` or `add_zero_attn`.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        if fused.bias_k is not None or fused.add_zero_attn:
            raise ValueError("attention with bias_k or add_zero_attn cannot be separated; open_clip has none")
        self.heads = fused.num_heads
        self.batch_first = fused.batch_first
        self.dropout = fused.dropout
        weights = _split(fused)
        biases = fused.in_proj_bias.chunk(3) if fused.in_proj_bias is not None else (None, None, None)
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend from `query` to `key`. Returns the outputs, and None in place of attention weights.

        Args:
            query: (batch, target, dim); (target, batch, dim) if the replaced module was not `batch_first`.
            key: like `query`, with `source` in place of `target`; `value` likewise.
            key_padding_mask: (batch, source); True (or minus infinity) means "do not attend".
            need_weights: ignored; only there for the signature.
            attn_mask: (target, source) or (batch * heads, target, source), with the same meaning.
        """
        if not self.batch_first:
            query, key, value = (states.transpose(0, 1) for states in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        mask = _merge_masks(attn_mask, key_padding_mask, self.heads, q.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1), None

    def _heads(self, states: Tensor) -> Tensor:
        """(batch, seq, dim) -> (batch, heads, seq, dim / heads)."""
        return states.view(*states.shape[:-1], self.heads, -1).transpose(1, 2)


def separate_attention(module: nn.Module) -> nn.Module:
    """Replace every `nn.MultiheadAttention` inside a module, in place. Returns the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.MultiheadAttention):
            setattr(module, name, SeparateAttention(child).train(child.training))
        else:
            separate_attention(child)
    return module


def _split(fused: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    """Return the weights of q, k and v."""
    if fused.in_proj_weight is not None:
        return fused.in_proj_weight.chunk(3)
    return fused.q_proj_weight, fused.k_proj_weight, fused.v_proj_weight


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a layer with a copy of the weights."""
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _merge_masks(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Merge both masks into one additive mask that broadcasts to (batch, heads, target, source)."""
    masks = []
    if attn_mask is not None:
        additive = _additive(attn_mask, dtype)
        masks.append(additive.view(-1, heads, *additive.shape[1:]) if additive.ndim == 3 else additive)
    if key_padding_mask is not None:
        masks.append(_additive(key_padding_mask, dtype)[:, None, None, :])
    return sum(masks[1:], masks[0]) if masks else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask, where True means "do not attend", into 0 and minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
