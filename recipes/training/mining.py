"""Which questions a window asks: each once in a pass, or, after the first pass, those that still teach.

A group whose answers are all right or all wrong has no gradient. What a question's group was when it was
last asked says best what it will be: with `order.mining: spread` a question is drawn in proportion to the
spread of those rewards, and one without any rests. As in prioritised level replay (arXiv:2010.03934), but
with the standard deviation of the group's rewards as the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompter.runs.run_folder import RunFolder
from recipes.config import OrderConfig
from recipes.training.order import indices_of_run, window_prompts
from recipes.training.saved_windows import window_rewards

_NO_SPREAD = 1e-6


class WindowOrder:
    """Positions in the training set, window by window.

    Everything is determined by seed, number of the window, and the rewards of the windows before it, which a
    run folder keeps: a resumed run asks what an unbroken one would have.

    Args:
        config: the section `order`.
        arguments: TRL's `GRPOConfig`.
        samples: size of the training set.
    """

    def __init__(self, config: OrderConfig, arguments: Any, samples: int) -> None:
        self.config, self._arguments, self._samples = config, arguments, samples
        self._spread: NDArray[np.float64] = np.full(samples, np.nan)  # NaN: not asked yet

    def indices(self, window: int) -> list[int]:
        """Distinct positions that a window asks, by its number from 0; the windows before it were noted."""
        prompts = window_prompts(self._arguments)
        if self.config.mining == "none" or window < self._samples // prompts:
            return indices_of_run(self._arguments, window, self._samples)
        rng = np.random.default_rng([int(self._arguments.seed), window, 2])
        weights = self._weights()
        drawn = min(prompts - round(self.config.fresh * prompts), int((weights > 0).sum()))
        mined = rng.choice(self._samples, size=drawn, replace=False, p=weights) if drawn else np.empty(0, int)
        others = np.setdiff1d(np.arange(self._samples), mined)
        fresh = rng.choice(others, size=prompts - drawn, replace=False)
        return [int(index) for index in rng.permutation(np.concatenate([mined, fresh]))]

    def note(self, groups: Sequence[tuple[int, Sequence[float | None]]]) -> None:
        """Remember a window's groups: position in the training set, and rewards (None: not scored)."""
        for index, rewards in groups:
            known = [reward for reward in rewards if reward is not None]
            if known:
                self._spread[index] = np.std(known)

    def restore(self, folder: RunFolder) -> None:
        """Remember the groups of all windows that a run folder keeps."""
        if self.config.mining != "none":
            for _, path in folder.step_windows():
                self.note(window_rewards(Path(path)))

    def figures(self) -> dict[str, int]:
        """For the log, with mining: how many questions were asked, and how many of those rest."""
        if self.config.mining == "none":
            return {}
        asked = ~np.isnan(self._spread)
        return {
            "questions_asked": int(asked.sum()),
            "questions_at_rest": int((self._spread <= _NO_SPREAD).sum()),
        }

    def _weights(self) -> NDArray[np.float64]:
        """Probability of each question; one that was not asked yet counts as the mean of those that were."""
        spread = np.where(self._spread <= _NO_SPREAD, 0.0, self._spread)
        asked = spread[~np.isnan(spread)]
        usual = float(asked.mean()) if len(asked) and asked.any() else 1.0
        weights: NDArray[np.float64] = np.where(np.isnan(spread), usual, spread)
        return weights / weights.sum() if weights.any() else weights
