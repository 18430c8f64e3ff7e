"""The ways of making a training step that are compared, and what was measured of one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from recipes.config import TrainConfig
from recipes.training.scoring import ScoredGroup

STOCK = "stock TRL, the field's reward"


@dataclass(frozen=True)
class Way:
    """One way of making a step.

    Args:
        title: of its row; of all but the first, what it adds to the row before.
        ours: our trainer, which shares prompts and images among a group's completions, and not TRL's.
        executor: how completions are segmented: "peers" sets the image for each of them, "once" sets it
            once, "batched" is ours in this process, "actors" ours as the config has it.
        backend: what samples; TRL's trainer knows "hf" alone.
        prefetch: encode a window's images while it is sampled.
        staleness: windows that sampling may be ahead of training.
    """

    title: str
    ours: bool = False
    executor: str = "peers"
    backend: str = "hf"
    prefetch: bool = False
    staleness: int = 0


@dataclass
class Measured:
    """What the timed steps of a way took.

    Args:
        way: which.
        seconds: of each step.
        sample, segment: seconds of each step that went into completions and into rewards; beside training
            where windows are sampled ahead, and noted with the step in which they ended.
        groups: what was sampled and scored in each step.
        encodes: images that the segmenter encoded in the timed steps.
    """

    way: Way
    seconds: list[float] = field(default_factory=list)
    sample: list[float] = field(default_factory=list)
    segment: list[float] = field(default_factory=list)
    groups: list[list[ScoredGroup]] = field(default_factory=list, repr=False)
    encodes: int = 0

    @property
    def completions(self) -> int:
        """Completions of the timed steps."""
        return sum(len(group.completions) for step in self.groups for group in step)

    @property
    def tokens(self) -> int:
        """Tokens of those completions."""
        return sum(len(one.token_ids) for step in self.groups for group in step for one in group.completions)

    @property
    def typical(self) -> int:
        """Number of the step of median time (the longer of two): other work hits single ones."""
        return sorted(range(len(self.seconds)), key=self.seconds.__getitem__)[len(self.seconds) // 2]

    @property
    def rate(self) -> float:
        """Completions per second in the typical step."""
        return self.completions / len(self.seconds) / self.seconds[self.typical]


def ways(config: TrainConfig) -> list[Way]:
    """TRL's way, and what is added to it up to a config's own, in order.

    Args:
        config: its sampler and its overlap say what is added to our trainer.
    """
    found = [Way(STOCK)]

    def add(title: str, **values: Any) -> None:
        found.append(replace(found[-1], title=f"+ {title}", **values))

    add("one encode per image", executor="once")
    add("batched decode", executor="batched")
    add("shared prompts, labelled head", ours=True)
    backend = config.sampler.backend
    if backend != "hf":
        add("vLLM" + (" in actors" if backend == "ray" else ""), backend=backend)
    if backend == "ray" and config.overlap.prefetch:
        add("encode while sampling", prefetch=True, executor="actors")
    if backend == "ray" and config.overlap.staleness:
        add("sample while training", staleness=config.overlap.staleness)
    return found
