"""TRL's head scores the tokens of completions only, on every device.

Prompts and padding are most of a batch, and nobody asks for the log-probabilities of their tokens. TRL's
fused head leaves them out on GPUs; elsewhere it scores every position, so that compiled shapes stay the
same from batch to batch, which nothing here compiles. Each position is scored by itself: what is asked for
comes out the same.
"""

from __future__ import annotations


def score_labelled_only() -> None:
    """Make TRL's fused heads (`trl.trainer.utils.add_fused_lm_head`) of this process leave the rest out.

    Raises:
        RuntimeError: if TRL no longer asks what is answered here.
    """
    from trl.trainer import utils

    if not hasattr(utils, "_use_triton"):
        raise RuntimeError(
            "TRL changed: trl.trainer.utils._use_triton is gone; see how add_fused_lm_head decides now "
            "whether it scores the labelled positions only, and adapt recipes/training/labelled_head.py"
        )
    # Only the head asks through this name; TRL's kernels have their own and go on without Triton.
    utils._use_triton = _always


def _always(device: object) -> bool:
    return True
