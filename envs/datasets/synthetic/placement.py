"""Finding a free and fitting place for each object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.datasets.synthetic.drawing import Points, pick, rectangle, turn
from envs.datasets.synthetic.ground import ZONE_CELLS, Ground, Zone
from envs.datasets.synthetic.objects import OBJECT_CLASSES, ObjectClass
from envs.datasets.synthetic.painter import Design

Rng = np.random.Generator
_MARGIN = 0.015  # of the side, between an object and the image's rim


@dataclass(frozen=True)
class Placed:
    """A design with its place: centre (x, y) in the scene frame and heading in radians."""

    design: Design
    centre: tuple[float, float]
    angle: float
    moored: bool = False


def _allowed(kind: ObjectClass) -> NDArray[np.bool_]:
    """For each zone number, whether a class may stand there."""
    return np.array([number in kind.zones for number in range(max(Zone) + 1)])


class Placer:
    """Puts objects down one after another so that none overlaps and each stands on its own ground.

    Args:
        ground: the terrain, whose zones, roads and berths decide.
        rng: the scene's generator.
    """

    def __init__(self, ground: Ground, rng: Rng):
        self.ground = ground
        self.rng = rng
        self.placed: list[Placed] = []
        self.taken = np.zeros((ZONE_CELLS, ZONE_CELLS), np.bool_)
        self._berths = list(ground.berths)

    def possible(self, kind: ObjectClass) -> bool:
        """Whether the terrain has any ground at all for a class."""
        if Zone.ROAD in kind.zones:
            return bool(self.ground.roads)
        return bool(_allowed(kind)[self.ground.zones].mean() > 0.06)

    def place(self, design: Design, attempts: int = 40) -> bool:
        """Try places, shrinking the object a little each time; True when it was put down."""
        kind = OBJECT_CLASSES[design.kind]
        shortest = kind.length[0] * 0.95
        for attempt in range(attempts):
            factor = max(1 - 0.018 * attempt, shortest / design.length)
            smaller = (
                design
                if factor >= 1
                else Design(
                    design.kind, design.length * factor, design.width * factor, design.looks, design.detail
                )
            )
            candidate = self._candidate(smaller, kind)
            if candidate is not None and self._fits(candidate, kind):
                self.placed.append(candidate)
                return True
        return False

    def _candidate(self, design: Design, kind: ObjectClass) -> Placed | None:
        if Zone.ROAD in kind.zones:
            return self._on_road(design)
        if Zone.WATER in kind.zones and self._berths and self.rng.random() < 0.6:
            berth = pick(self.rng, self._berths)
            if design.length <= berth.length:
                gap = design.width / 2 + 0.012
                x, y = berth.centre[0] + berth.away[0] * gap, berth.centre[1] + berth.away[1] * gap
                return Placed(design, (x, y), berth.angle + np.pi * int(self.rng.integers(2)), moored=True)
        reach = _MARGIN + min(design.length, design.width) / 2
        x, y = self.rng.uniform(reach, 1 - reach, 2)
        return Placed(design, (float(x), float(y)), self._heading(kind))

    def _heading(self, kind: ObjectClass) -> float:
        aligned = self.ground.angle + int(self.rng.integers(4)) * np.pi / 2
        if kind.name == "aircraft":
            return aligned + self.rng.normal(0, 0.25)
        if kind.name == "ship":
            return self.ground.angle + int(self.rng.integers(2)) * np.pi + self.rng.normal(0, 0.35)
        if kind.name == "storage tank":
            return self.rng.uniform(0, 2 * np.pi)
        return aligned + self.rng.normal(0, 0.03)

    def _on_road(self, design: Design) -> Placed | None:
        road = pick(self.rng, self.ground.roads)
        inside = np.flatnonzero(((road.line > 0.06) & (road.line < 0.94)).all(1))
        if not inside.size:
            return None
        at = int(np.clip(pick(self.rng, inside.tolist()), 1, len(road.line) - 2))
        tangent = road.line[at + 1] - road.line[at - 1]
        slide = self.rng.uniform(-0.5, 0.5)
        side = pick(self.rng, (-1, 1))
        heading = np.arctan2(tangent[1], tangent[0]) + (0 if side > 0 else np.pi)
        normal = np.array([-np.sin(heading), np.cos(heading)])
        x, y = road.line[at] + slide * tangent / 2 + normal * road.width * 0.23  # drive on the right
        return Placed(design, (float(x), float(y)), float(heading))

    def _fits(self, candidate: Placed, kind: ObjectClass) -> bool:
        design, painter = candidate.design, kind.painter
        grow = painter.surround * design.width
        outline = (
            rectangle(design.length + 2 * grow, design.width + 2 * grow)
            if painter.outline is None
            else painter.outline(design) * (1 + painter.surround)
        )
        footprint: Points = turn(outline, candidate.angle, candidate.centre)
        body = turn(rectangle(design.length, design.width), candidate.angle, candidate.centre)
        if painter.outline is not None:
            body = footprint
        if body.min() < _MARGIN or body.max() > 1 - _MARGIN:
            return False
        cells = self.ground.zone_cells(footprint)
        if (self.taken & cells).any():
            return False
        if Zone.ROAD in kind.zones:
            row, column = (int(v * ZONE_CELLS) for v in candidate.centre[::-1])
            if self.ground.zones[row, column] != Zone.ROAD:
                return False
        elif not _allowed(kind)[self.ground.zones[cells]].all():
            return False
        self.taken |= cells
        if candidate.moored:
            centre = np.asarray(candidate.centre)
            self._berths = [b for b in self._berths if np.linalg.norm(centre - b.centre) > design.width]
        return True
