"""What no sampler draws has no share in what the trainer scores, and leaves no trace in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from prompter.checkpoint import Checkpoint, load_weights
from prompter.sampling.token_sampler import suppressed_ids
from recipes.training.suppressed_tokens import suppress_tokens
from tests.fixtures.packed_rows import KEPT, batch_of, plainly
from tests.fixtures.tiny_policy import save_tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny"))


def test_trls_head_scores_the_rest_of_the_vocabulary(policy: Checkpoint) -> None:
    model: Any = load_weights(policy, dtype=torch.float32)
    batch = batch_of(policy, [0, 1, 2])
    ids = list(suppressed_ids(policy.processor.tokenizer))
    assert len(ids) == 4
    with torch.no_grad():
        logits = model(**batch).logits[:, -KEPT - 1 : -1]
        share = logits.softmax(-1)[..., ids].sum(-1)
        assert share.max() > 1e-3
        logits[..., ids] = -torch.inf
        wanted = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, -KEPT:, None])[..., 0]
        add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
        suppress_tokens(model, ids)
        logps, entropies = plainly(model, batch)
        assert type(model(**batch).logits) is torch.Tensor
    kept = batch["attention_mask"][:, -KEPT:] == 1
    torch.testing.assert_close(logps[kept], wanted[kept], rtol=0, atol=1e-5)
    assert entropies.isfinite().all()


def test_names_and_files_stay(policy: Checkpoint, tmp_path: Path) -> None:
    model: Any = load_weights(policy, dtype=torch.float32)
    names = [name for name, _ in model.named_parameters()], list(model.state_dict())
    suppress_tokens(model, [3, 4])
    assert ([name for name, _ in model.named_parameters()], list(model.state_dict())) == names
    model.save_pretrained(tmp_path)
    again: Any = type(model).from_pretrained(tmp_path)
    assert again.get_output_embeddings().bias is None
    # Beside a sharded head, TRL gathers the bias as it does the weight.
    assert type(model.lm_head.bias.full_tensor()) is torch.Tensor
    with pytest.raises(ValueError, match="has a bias of its own"):
        suppress_tokens(model, [3])
