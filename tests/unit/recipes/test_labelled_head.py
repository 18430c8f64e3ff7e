"""TRL's head on a CPU scores what is asked for and nothing else, to the same digits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer import utils

from recipes.training.labelled_head import score_labelled_only

HIDDEN, VOCABULARY, ROWS, LENGTH = 16, 90, 3, 40


class Head(torch.nn.Module):
    """A language model that is only a head: its hidden states are given."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states, self.head = states, torch.nn.Linear(HIDDEN, VOCABULARY)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def forward(self, **options: Any) -> None:
        """Replaced by TRL's."""

    def base_model(self, **options: Any) -> Any:
        """The hidden states, as a backbone gives them."""
        return SimpleNamespace(last_hidden_state=self.states)

    def get_output_embeddings(self) -> torch.nn.Linear:
        """See transformers."""
        return self.head


def score(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head: Any = Head(torch.randn(ROWS, LENGTH, HIDDEN).requires_grad_())
    utils.add_fused_lm_head(head, temperature=0.8, outputs=("log_probs", "entropy"))
    output = head(fused_lm_head=True, shift_labels=labels)
    (output.log_probs * torch.arange(LENGTH)).sum().backward()
    return output.log_probs.detach(), output.entropy.detach(), head.states.grad


def test_the_same_comes_out_and_only_labelled_positions_go_in(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels[:, :25] = -100
    labels[1, 33:] = -100
    scored: list[int] = []
    kernel = utils._ChunkedLogProbFunction.apply

    def counting(hidden: torch.Tensor, *args: Any) -> Any:
        scored.append(len(hidden))
        return kernel(hidden, *args)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=counting))
    monkeypatch.setattr(utils, "_use_triton", lambda device: False)  # TRL's answer for a CPU; put back later
    every = score(labels)
    score_labelled_only()
    labelled = score(labels)
    assert scored == [ROWS * LENGTH, int((labels != -100).sum())]
    for one, other in zip(every, labelled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert (labelled[0] != 0).sum() == scored[1] and (labelled[0][:, :25] == 0).all()


def test_nothing_labelled_gives_zeros_and_no_gradient() -> None:
    score_labelled_only()
    values, _, gradient = score(torch.full((ROWS, LENGTH), -100))
    assert not values.any() and not gradient.any()


def test_another_trl_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(utils, "_use_triton")
    with pytest.raises(RuntimeError, match="TRL changed"):
        score_labelled_only()
