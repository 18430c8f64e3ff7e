"""What TRL is handed for one window: completions when it would generate, rewards when it would score.

TRL's own hook, `rollout_func`, is not used, for two reasons (TRL 1.16, `GRPOTrainer._generate`): with
it TRL forgets the images of its rows, so that log-probabilities would be computed without them; and
the correction for the difference between sampler and trainer is made only where TRL believes that
vLLM samples (`use_vllm`). So TRL is told that it does, and `WindowHandOver` stands in vLLM's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from recipes.training.scoring import ScoredGroup


class WindowHandOver:
    """Stands where TRL has its `vllm_generation`, and serves one window at a time."""

    def __init__(self) -> None:
        self._groups: Sequence[ScoredGroup] | None = None

    def serve(self, groups: Sequence[ScoredGroup] | None) -> None:
        """Serve these groups from now on, in the order of TRL's rows; None ends that."""
        self._groups = groups

    def sync_weights(self) -> None:
        """Nothing to do: the trainer brings its weights to the sampler before a window is collected."""

    def generate(self, *, prompts: Any, profiler: Any = None, **_: Any) -> tuple[None, list, list, None]:
        """Hand over the completions, as TRL's `VLLMGeneration.generate` returns them.

        Returns:
            None, the sampled ids of each row, the log-probability of each id as a list of one (None for an
            answer of before, `recipes.training.memory`), None.

        Raises:
            RuntimeError: if TRL asks for another number of completions than the window holds.
        """
        with profiler or nullcontext():
            completions = [one for group in self._served() for one in group.completions]
            if len(completions) != len(prompts):
                raise RuntimeError(f"TRL asked for {len(prompts)} completions of {len(completions)}")
            ids = [list(one.token_ids) for one in completions]
            # Without a number of the sampler's TRL takes a token's ratio to it as 1.
            logprobs = [
                [[value] for value in one.logprobs or [None] * len(one.token_ids)] for one in completions
            ]
            return None, ids, logprobs, None

    def reward(self, prompts: Any, completions: Any, index: list[int], **_: Any) -> list[float | None]:
        """Hand over the rewards, as a reward function of TRL; `index` is the rows' training-set index.

        Raises:
            RuntimeError: if the rows are not in the window's order.
        """
        groups = self._served()
        if index != [group.index for group in groups for _ in group.completions]:
            raise RuntimeError("TRL reordered the rows of a window: rewards would go to other completions")
        return [reward for group in groups for reward in group.rewards]

    def _served(self) -> Sequence[ScoredGroup]:
        if self._groups is None:
            raise RuntimeError("TRL asks for completions or rewards, but no window was collected")
        return self._groups


def without_images(prompt: Any) -> Any:
    """A chat whose images are only named."""
    if not isinstance(prompt, list):
        return prompt
    return [
        {
            **message,
            "content": [
                {"type": "image"} if part.get("type") == "image" else part for part in message["content"]
            ]
            if isinstance(message["content"], list)
            else message["content"],
        }
        for message in prompt
    ]
