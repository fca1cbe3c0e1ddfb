"""Low-rank products of rows with different adapters, against a loop over the rows in float64."""

import pytest
import torch
from torch import Tensor

from model_server.low_rank import RowSlots, add_low_rank

SLOTS, RANK, IN, OUT, TOKENS = 6, 3, 5, 7, 4
CPU = torch.device("cpu")


def stacks() -> tuple[Tensor, Tensor]:
    """A (slots, rank, in) and B (slots, out, rank); slot 0 is all zeros."""
    a, b = torch.randn(SLOTS, RANK, IN), torch.randn(SLOTS, OUT, RANK)
    a[0], b[0] = 0, 0
    return a, b


def expected(output: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: list[int]) -> Tensor:
    rows = [
        row.double() + of_row.double() @ a[slot].T.double() @ b[slot].T.double()
        for row, of_row, slot in zip(output, x, slots, strict=True)
    ]
    return torch.stack(rows).float()


@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize(
    "slots",
    [[1, 2, 3, 4, 5, 0], [3, 1, 3, 0], [2] * 5 + [4] * 7, [0] * 4 + [5] * 8, [2, 2, 2], [0, 0]],
    ids=["all different", "in turns", "long runs", "a long run of the base model", "one", "base model"],
)
@pytest.mark.parametrize("is_flat", [True, False], ids=["vectors", "tokens"])
def test_each_row_gets_the_product_with_its_own_adapter(slots: list[int], windows: int, is_flat: bool) -> None:
    torch.manual_seed(0)
    a, b = stacks()
    middle = () if is_flat else (TOKENS,)
    x, output = (torch.randn(len(slots) * windows, *middle, width) for width in (IN, OUT))
    of_windows = [slot for slot in slots for _ in range(windows)]
    right = expected(output, x, a, b, of_windows)
    changed = add_low_rank(output, x, a, b, RowSlots.of(slots, CPU))
    torch.testing.assert_close(changed, right)
    assert changed.data_ptr() == output.data_ptr()


def test_a_part_of_a_batch_gets_the_adapter_that_all_rows_have() -> None:
    a, b = stacks()
    x, output = torch.randn(2, TOKENS, IN), torch.randn(2, TOKENS, OUT)
    right = expected(output, x, a, b, [3, 3])
    torch.testing.assert_close(add_low_rank(output, x, a, b, RowSlots.of([3] * 5, CPU)), right)


@pytest.mark.parametrize("slots", [[1, 2, 3], [1] * 6 + [2] * 6])
def test_rows_whose_adapters_are_not_known_are_refused(slots: list[int]) -> None:
    a, b = stacks()
    with pytest.raises(ValueError, match=f"10 rows where {len(slots)} have adapters"):
        add_low_rank(torch.randn(10, OUT), torch.randn(10, IN), a, b, RowSlots.of(slots, CPU))
