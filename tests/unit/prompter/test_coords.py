"""Frames: whole numbers survive a round trip exactly, boxes keep an area, sizes are the processors' own."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prompter.coords import Frame, FrameKind, fit_size, largest_area

sides = st.integers(1, 10_000)
frames = st.builds(
    Frame, st.sampled_from(get_args(FrameKind)), st.tuples(sides, sides), st.tuples(sides, sides)
)
shares = st.floats(0, 1)


@given(frames, st.data())
def test_whole_numbers_survive_model_to_image_to_model(frame: Frame, data: st.DataObject) -> None:
    point = (data.draw(st.integers(0, frame.extent[0])), data.draw(st.integers(0, frame.extent[1])))
    assert frame.contains(*point)
    assert frame.point_to_model(frame.point_to_image(point)) == point


@given(frames, st.data())
def test_whole_number_boxes_survive_too(frame: Frame, data: st.DataObject) -> None:
    x1, y1 = (data.draw(st.integers(0, extent - 1)) for extent in frame.extent)
    x2, y2 = (
        data.draw(st.integers(low + 1, extent)) for low, extent in zip((x1, y1), frame.extent, strict=True)
    )
    assert frame.box_to_model(frame.box_to_image((x1, y1, x2, y2))) == (x1, y1, x2, y2)


@given(frames, shares, shares)
def test_image_to_model_to_image_moves_by_at_most_half_a_unit(
    frame: Frame, right: float, down: float
) -> None:
    point = (right * frame.image_wh[0], down * frame.image_wh[1])
    back = frame.point_to_image(frame.point_to_model(point))
    for axis in (0, 1):
        unit = frame.image_wh[axis] / frame.extent[axis]
        assert abs(back[axis] - point[axis]) <= unit / 2 * (1 + 1e-9) + 1e-9


@given(frames, st.tuples(shares, shares, shares, shares))
def test_a_box_never_collapses_and_stays_in_the_frame(
    frame: Frame, corners: tuple[float, float, float, float]
) -> None:
    width, height = frame.image_wh
    x1, x2 = sorted((corners[0] * width, corners[2] * width))
    y1, y2 = sorted((corners[1] * height, corners[3] * height))
    assume(x2 > x1 and y2 > y1)
    a, b, c, d = frame.box_to_model((x1, y1, x2, y2))
    assert 0 <= a < c <= frame.extent[0]
    assert 0 <= b < d <= frame.extent[1]


@given(frames, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_what_lies_outside_the_image_is_clamped_into_the_frame(frame: Frame, x: float, y: float) -> None:
    assert frame.contains(*frame.point_to_model((x, y)))


def test_frames_by_hand() -> None:
    """An image of 640 x 480 shown at 1288 x 980: absolute pixels of the shown image, or thousandths."""
    absolute = Frame("absolute", (640, 480), (1288, 980))
    assert absolute.extent == (1288, 980)
    assert absolute.point_to_model((320.0, 480.0)) == (644, 980)
    assert absolute.box_to_image((0, 0, 1288, 490)) == (0.0, 0.0, 640.0, 240.0)
    thousandths = Frame("thousandths", (640, 480), (1288, 980))
    assert thousandths.extent == (1000, 1000)
    assert thousandths.point_to_image((500, 250)) == (320.0, 120.0)
    assert thousandths.box_to_model((639.9, 10.0, 640.0, 10.1)) == (999, 21, 1000, 22)


@pytest.mark.parametrize("sizes", [((0, 5), (5, 5)), ((5, 5), (5, -1))])
def test_a_size_without_pixels_is_refused(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Frame("absolute", *sizes)


@settings(max_examples=300)
@given(
    sides,
    sides,
    st.sampled_from([16, 28, 32]),
    st.integers(1, 2_000_000),
    st.integers(1, 20_000_000),
)
def test_sizes_are_those_of_transformers(width: int, height: int, factor: int, low: int, high: int) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    assume(max(width, height) <= 200 * min(width, height))
    low, high = sorted((low, high))
    theirs = smart_resize(height, width, factor, low, high)
    assume(max(theirs) <= 200 * min(theirs))  # theirs would be refused when it comes to the processor
    assert fit_size((width, height), factor=factor, min_pixels=low, max_pixels=high) == theirs[::-1]


@settings(max_examples=300)
@given(sides, sides, st.sampled_from([16, 28, 32]), st.integers(1, 3_000_000), st.floats(1, 50))
def test_a_fitted_size_is_left_alone_by_a_processor_of_pinned_limits(
    width: int, height: int, factor: int, low: int, ratio: float
) -> None:
    """`policy._pin_pixel_limits` pins factor**2 and `largest_area`; ranges of no width at all included."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    limits = {"factor": factor, "min_pixels": low, "max_pixels": int(low * ratio)}
    fitted = fit_size((width, height), **limits)
    assert max(fitted) <= 200 * min(fitted)  # else it is refused when it is processed
    assert smart_resize(fitted[1], fitted[0], factor, factor**2, largest_area(**limits)) == fitted[::-1]


def test_the_default_range_needs_no_larger_area() -> None:
    for factor in (28, 32):
        limit = {"factor": factor, "min_pixels": 256 * 256, "max_pixels": 1024 * 1024}
        assert largest_area(**limit) == 1024 * 1024


@pytest.mark.parametrize("image_wh", [(1093, 5), (5, 1093), (10, 2001), (1, 100_000), (30_000, 1)])
@pytest.mark.parametrize("limits", [(1, 10**6), (256 * 256, 1024 * 1024), (400_000, 400_000)])
def test_a_very_thin_image_is_widened_to_what_processors_take(
    image_wh: tuple[int, int], limits: tuple[int, int]
) -> None:
    """An image that transformers refuses must not end a run; its coordinates map per axis, so they hold."""
    low, high = limits
    wh = fit_size(image_wh, factor=28, min_pixels=low, max_pixels=high)
    assert max(wh) <= 200 * min(wh)
    assert (wh[0] - wh[1]) * (image_wh[0] - image_wh[1]) >= 0
    assert wh[0] % 28 == wh[1] % 28 == 0
    frame = Frame("absolute", image_wh, wh)
    assert frame.box_to_image((0, 0, *wh)) == (0.0, 0.0, *map(float, image_wh))
