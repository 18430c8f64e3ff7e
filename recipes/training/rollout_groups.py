"""The rollouts of a training run as the viewer shows them: groups with what they were trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from envs.rollout import Rollout
from envs.sample import SampleSource
from eval.viewer.groups import MOST_ROLLOUTS, Group, Member, Shown, evenly, image_of
from prompter.runs.jsonl import count_lines
from prompter.runs.run_folder import RunFolder
from recipes.training.saved_windows import window_groups
from recipes.training.scoring import ScoredGroup
from rewards.replay import read_rollouts

PART = "training"


def training_groups(
    folder: RunFolder,
    source: SampleSource | None,
    config: Mapping[str, Any],
    *,
    most: int = MOST_ROLLOUTS,
) -> Shown:
    """The groups that a run sampled, step by step.

    Args:
        folder: of the run.
        source: its training set, for the images; None draws masks on grey. Runs of earlier versions did not
            note which samples they asked, and have no images either.
        config: the run's resolved configuration; `trainer.scale_rewards` says what advantages are divided by.
        most: rollouts to show. Where there are more, whole steps are left out, evenly spaced.
    """
    files = folder.step_rollouts()
    sizes = [count_lines(path) for _, path in files]
    total = sum(sizes)
    chosen = list(range(len(files)))
    if total > most:
        chosen = evenly(len(files), max(1, most * len(files) // total))
    scale = dict(config.get("trainer") or {}).get("scale_rewards")
    windows = dict(folder.step_windows())
    shown = sum(sizes[place] for place in chosen)
    note = ""
    if shown < total:
        note = (
            f"{shown:,} of {total:,} rollouts of training are here: {len(chosen):,} of {len(files):,} steps, "
            "evenly spaced."
        )
    return Shown(_groups([files[place] for place in chosen], windows, source, scale), note)


def _groups(
    files: Sequence[tuple[int, Path]], windows: Mapping[int, Path], source: SampleSource | None, scale: Any
) -> Iterator[Group]:
    for step, path in files:
        saved = iter(window_groups(windows[step]) if step in windows else ())
        for _, same in groupby(read_rollouts(path), lambda one: (one.dataset, one.split, one.sample_id)):
            rollouts, trained = list(same), next(saved, None)
            worth = _advantages(rollouts, trained, scale)
            load = None if trained is None else image_of(source, trained.index, rollouts[0])
            several = len({one.executor for one in rollouts}) > 1
            members = [
                Member(one, _label(number, one, several), worth.get(one.completion))
                for number, one in enumerate(rollouts, start=1)
            ]
            yield Group(members, PART, load)


def _label(number: int, rollout: Rollout, several: bool) -> str:
    return f"{number}, {rollout.executor}" if several else str(number)


def _advantages(
    rollouts: Sequence[Rollout], trained: ScoredGroup | None, scale: Any
) -> Mapping[str, float | None]:
    """Completion -> its advantage; those without a reward, or left out of training, are not in it.

    Equal texts are read, segmented and scored alike, so a text names them all. Where the best are imitated,
    their weights stand in the place of advantages, as in training.
    """
    import torch

    from recipes.grpo_loop import advantages

    if trained is not None and trained.weights is not None:
        texts = [one.text for one in trained.completions]
        return dict(zip(texts, trained.weights, strict=True))
    if trained is not None:
        pairs = [(one.text, reward) for one, reward in zip(trained.completions, trained.rewards, strict=True)]
    else:
        pairs = [(one.completion, one.rewards.get("total")) for one in rollouts]
    known = [(text, reward) for text, reward in pairs if reward is not None]
    if len(known) < 2:
        return {}
    # TRL's other settings divide a whole batch by one number, which a group alone does not know.
    by: Literal["none", "group"] = "group" if scale in ("group", True) else "none"
    values = advantages(torch.tensor([[reward for _, reward in known]]), by)[0].tolist()
    return dict(zip((text for text, _ in known), values, strict=True))
