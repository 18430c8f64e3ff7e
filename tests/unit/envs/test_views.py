"""Views of an image that is moved, and answers about them moved back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from envs.sample import Sample
from envs.views import View, drawn_view
from eval.answerers.base import LookSettings
from eval.answerers.checkpoint import SamplerAnswerer
from prompter.policy import Policy, PolicySettings
from prompter.sampling.base import SamplingSettings
from prompter.types import Completion, FailureKind, Instance, ParseFailure, PromptSet

WH = (40, 30)
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SIDES, st.data())
def test_a_pixel_of_the_view_is_the_originals_moved_or_mirrored(
    wh: tuple[int, int], data: st.DataObject
) -> None:
    dx, dy = (data.draw(st.integers(1 - side, side - 1)) for side in wh)
    pixels = np.random.default_rng(0).integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8)
    shown = np.asarray(View((dx, dy)).show(Image.fromarray(pixels)))
    mirrored = np.pad(pixels, ((wh[1], wh[1]), (wh[0], wh[0]), (0, 0)), mode="symmetric")
    left, top = wh[0] + dx, wh[1] + dy
    assert np.array_equal(shown, mirrored[top : top + wh[1], left : left + wh[0]])


@given(st.integers(-12, 12), st.integers(-9, 9), st.integers(0, 27), st.integers(0, 20))
def test_what_is_seen_of_an_object_is_read_back_where_it_is(dx: int, dy: int, x: int, y: int) -> None:
    """An object of 10 x 8 pixels, alone in the image: its box in the view, found by its pixels."""
    image = np.zeros((WH[1], WH[0], 3), np.uint8)
    image[y : y + 8, x : x + 10] = 255
    if not (12 <= x <= 18 and 9 <= y <= 13):  # nearer to the edge there is a mirror image, too
        return
    view = View((dx, dy))
    rows, columns = np.nonzero(np.asarray(view.show(Image.fromarray(image)))[..., 0])
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    found = view.read_back(PromptSet((Instance(box, (middle,)),)), WH)
    assert isinstance(found, PromptSet)
    assert found.instances[0].box == (x, y, x + 10, y + 8)
    assert found.instances[0].positive_points == ((x + 5, y + 4),)


def test_the_mirrored_margin_is_no_part_of_the_image() -> None:
    view = View((10, 0))  # the last ten columns of the view are mirrored
    half = Instance((20, 5, 40, 15), ((25, 10), (35, 10)), ((22, 8), (38, 8)))
    beyond = Instance((31, 5, 39, 15))
    pointed = Instance(None, ((35, 10),))
    found = view.read_back(PromptSet((half, beyond, pointed)), WH)
    assert found == PromptSet((Instance((30, 5, 40, 15), ((35, 10),), ((32, 8),)),))
    lost = view.read_back(PromptSet((beyond, pointed)), WH, "text")
    assert isinstance(lost, ParseFailure) and lost.kind is FailureKind.OUT_OF_FRAME and lost.text == "text"
    assert view.read_back(PromptSet(), WH) == PromptSet()
    assert view.read_back(lost, WH) is lost


@given(st.text(max_size=8), st.integers(0, 5), st.floats(0, 0.5), SIDES)
def test_a_view_follows_from_its_name_and_stays_within_the_share(
    name: str, seed: int, shift: float, wh: tuple[int, int]
) -> None:
    view = drawn_view(name, seed, shift, wh)
    assert view == drawn_view(name, seed, shift, wh)
    assert all(abs(move) <= round(shift * side) for move, side in zip(view.offset_xy, wh, strict=True))


class Finder:
    """A sampler that answers with the box of what is white in the image it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, float, int]] = []

    def sample(self, requests: list, settings: SamplingSettings) -> list[list[Completion]]:
        found = []
        for request in requests:
            self.seen.append((request.image_key, request.seed, settings.temperature, settings.n))
            rows, columns = np.nonzero(np.asarray(request.image)[..., 0] > 128)
            box = [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
            text = f'<answer>[{{"bbox_2d": {box}}}]</answer>'
            found.append([Completion(text, (1,), None, "stop")] * settings.n)
        return found

    def close(self) -> None:
        pass


def test_every_look_at_a_moved_image_finds_the_object_where_it_is() -> None:
    pixels = np.zeros((56, 56, 3), np.uint8)
    pixels[20:30, 24:40] = 255
    image = Image.fromarray(pixels)
    samples = [
        Sample(f"q{number}", "set", "test", "image", (56, 56), lambda: image, "the bright one", None)
        for number in range(2)
    ]
    settings = PolicySettings.model_validate(
        {
            "frame": "absolute",
            "think": False,
            "image": {"side": 56},
            "action_space": {"kind": "box"},
        }
    )
    sampler = Finder()
    answerer = SamplerAnswerer(Policy(settings, "absolute", 28), sampler, SamplingSettings(64, 0.0))  # type: ignore[arg-type]
    looked = answerer.look(samples, LookSettings(5, temperature=0.0, shift=0.2))
    boxes = [[one.reading.instances[0].box for one in group] for group in looked.answers]  # type: ignore[union-attr]
    assert boxes == [[(24.0, 20.0, 40.0, 30.0)] * 6] * 2
    greedy, moved = sampler.seen[:2], sampler.seen[2:]
    assert {one[0] for one in greedy} == {"set/test/image"}
    assert len({one[0] for one in moved}) == 5  # the questions about an image share its views
    assert len({one[1] for one in moved}) == 10
    assert {one[2:] for one in moved} == {(0.0, 1)}


def test_runs_without_moving_are_the_same_as_before_there_was_any() -> None:
    assert LookSettings(4).to_json() == {"samples": 4, "temperature": 0.8, "top_p": 1.0, "seed": 0}
    assert LookSettings(4, shift=0.1).to_json()["shift"] == pytest.approx(0.1)
