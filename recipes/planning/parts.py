"""What a plan is made of: items of memory, the processes that hold them, and the devices they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GIB = 2**30

ALWAYS = ""
"""The phase of what is there all the time."""


@dataclass(frozen=True)
class Item:
    """Memory for one purpose.

    Args:
        name: what it is for.
        size: bytes.
        note: how it was found, in a few words.
        phase: when it is there: `ALWAYS`, or one of "load", "sample", "segment", "train".
    """

    name: str
    size: float
    note: str = ""
    phase: str = ALWAYS


@dataclass(frozen=True)
class Part:
    """One process on a device.

    Args:
        name: "trainer", "engine" or "segmenter".
        items: what it holds.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def phases(self) -> dict[str, float]:
        """Bytes in each phase, what is always there included; in the order in which phases are named."""
        always = sum(item.size for item in self.items if item.phase == ALWAYS)
        named = dict.fromkeys(item.phase for item in self.items if item.phase != ALWAYS)
        return {
            phase: always + sum(item.size for item in self.items if item.phase == phase)
            for phase in named or {ALWAYS: None}
        }

    @property
    def peak(self) -> float:
        """Bytes in the phase that takes most."""
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """The phase that takes most; "" where all is there always."""
        phases = self.phases
        return max(phases, key=lambda phase: phases[phase])


@dataclass(frozen=True)
class Device:
    """A GPU, or a machine's memory, with the processes on it.

    Args:
        name: such as "GPU 0" or "GPUs 1-3", all alike, or "this machine".
        count: how many there are of it.
        parts: processes and how many of each are on one such device.
        limit: bytes that one has; None where it was not said.
    """

    name: str
    count: int
    parts: tuple[tuple[Part, int], ...]
    limit: float | None = None

    @property
    def peak(self) -> float:
        """Bytes that its processes take at most, each in its own worst phase."""
        return sum(part.peak * number for part, number in self.parts)

    @property
    def fits(self) -> bool | None:
        """Whether that is within the limit; None without one."""
        return None if self.limit is None else self.peak <= self.limit


@dataclass
class Request:
    """A process that asks for a share of a GPU.

    Args:
        part: the process.
        gpus: its share; above 1, whole GPUs.
    """

    part: Part
    gpus: float


@dataclass
class _Gpu:
    free: float = 1.0
    parts: list[Part] = field(default_factory=list)


def lay_out(requests: Sequence[Request], free_rider: Part | None, gpus: int | None) -> list[list[Part]]:
    """Put processes on GPUs as Ray does: each where it just fits, a new GPU only where it fits nowhere.

    Args:
        requests: processes with their shares, the largest are placed first.
        free_rider: a process that reserves nothing and takes a GPU without others where there is one.
        gpus: how many there are; None takes as many as are needed, and one more for the free rider.

    Returns:
        The processes of each GPU. Where `gpus` are too few for the shares, there are more lists than that.
    """
    cards: list[_Gpu] = []
    for request in sorted(requests, key=lambda one: -one.gpus):
        if request.gpus > 1:
            cards += [_Gpu(0.0, [request.part]) for _ in range(round(request.gpus))]
            continue
        fitting = [card for card in cards if card.free >= request.gpus - 1e-9]
        if not fitting:
            fitting = [_Gpu()]
            cards += fitting
        chosen = min(fitting, key=lambda card: card.free)
        chosen.free -= request.gpus
        chosen.parts.append(request.part)
    if free_rider is not None:
        if gpus is None or gpus > len(cards):
            cards.insert(0, _Gpu(0.0, [free_rider]))
        else:
            cards[0].parts.insert(0, free_rider)
    return [card.parts for card in cards]


def group_alike(cards: Sequence[Sequence[Part]], limit: float | None) -> list[Device]:
    """GPUs with the same processes as one `Device`."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, parts in enumerate(cards):
        groups.setdefault(tuple(sorted(part.name for part in parts)), []).append(number)
    devices = []
    for numbers in groups.values():
        held = {part.name: part for part in cards[numbers[0]]}
        names = [part.name for part in cards[numbers[0]]]
        counted = tuple((part, names.count(name)) for name, part in held.items())
        label = ", ".join(map(str, numbers))
        devices.append(Device(f"GPU{'s' * (len(numbers) > 1)} {label}", len(numbers), counted, limit))
    return devices
