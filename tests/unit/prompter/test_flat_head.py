"""On a CPU in half precision the head of a frozen model is given one matrix, whatever it is handed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from prompter.sampling.huggingface import _flat_head


class Headed(nn.Module):
    """A model of nothing but a head that notes the shapes it is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5, bias=False, dtype=dtype).requires_grad_(False)
        self.seen: list[tuple[int, ...]] = []
        self.head.register_forward_pre_hook(lambda _, args: self.seen.append(tuple(args[0].shape)))

    def get_output_embeddings(self) -> Any:
        return self.head


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_are_the_same_and_the_head_is_put_back(dtype: torch.dtype) -> None:
    model = Headed(dtype)
    hidden = torch.randn(3, 7, 8).to(dtype)[:, -1:, :]
    plain = model.head(hidden)
    multiplied: list[int] = []
    linear = nn.functional.linear
    with _flat_head(model), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda x, *rest: multiplied.append(x.ndim) or linear(x, *rest))
        flat = model.head(hidden)
    assert flat.shape == (3, 1, 5)
    torch.testing.assert_close(flat, plain, rtol=0.02, atol=0.02)
    assert multiplied == ([3] if dtype == torch.float32 else [2])
    assert "forward" not in model.head.__dict__
