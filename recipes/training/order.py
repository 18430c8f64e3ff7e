"""Which training samples a window of rollouts asks: from the seed and the window's number alone.

TRL draws them from a sampler with a state, which a resumed run of several ranks finds at its first epoch
again: accelerate's `set_epoch` does not reach it through the shards. A function has no state to lose.
"""

from __future__ import annotations

from typing import Any


def window_indices(*, seed: int, window: int, samples: int, prompts: int, shuffle: bool = True) -> list[int]:
    """Positions in the training set that a window asks, in the order of TRL's `RepeatSampler`.

    An epoch is a permutation of the set (PyTorch's `randperm` of a generator seeded `seed + epoch`), cut
    into windows; what is left over at its end, less than a window, is not asked in that epoch.

    Args:
        seed: of the run.
        window: number of the window in the run, from 0.
        samples: size of the training set.
        prompts: questions of a window, at least 1 and at most `samples`.
        shuffle: TRL's `shuffle_dataset`; without it every epoch goes through the set in its own order.

    Returns:
        `prompts` distinct positions.

    Raises:
        ValueError: if the set holds less than a window, or `window` is negative.
    """
    if not 1 <= prompts <= samples or window < 0:
        raise ValueError(f"no window {window} of {prompts} prompts out of {samples} samples")
    epoch, place = divmod(window, samples // prompts)
    if not shuffle:
        return list(range(place * prompts, (place + 1) * prompts))
    import torch

    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + epoch))
    return [int(index) for index in order[place * prompts : (place + 1) * prompts]]


def window_prompts(arguments: Any) -> int:
    """Questions of one window of rollouts, by TRL's `GRPOConfig`."""
    return int(arguments.generation_batch_size) // int(arguments.num_generations)


def indices_of_run(arguments: Any, window: int, samples: int) -> list[int]:
    """`window_indices` of a run that has these arguments of TRL's, on a training set of `samples`."""
    return window_indices(
        seed=int(arguments.seed),
        window=window,
        samples=samples,
        prompts=window_prompts(arguments),
        shuffle=bool(arguments.shuffle_dataset),
    )
