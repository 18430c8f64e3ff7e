"""ELISA's parts: mask embeddings, the vocabulary of one image, and the sentences that name masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prompter.elisa.embedding import GEOMETRY_WIDTH, MaskAdapter, box_features, pooled
from prompter.elisa.features import embed_masks, embedding_width
from prompter.elisa.settings import ElisaSettings
from prompter.elisa.text import AnswerTokens
from prompter.elisa.vocabulary import MaskTokens, extended
from prompter.types import FailureKind, ParseFailure


class Letters:
    """A tokenizer with a token per letter; 0 is the end."""

    eos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - 31 for letter in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(one + 31) for one in ids if one or not skip_special_tokens)


WORDS = 100
ANSWERS = AnswerTokens.of(ElisaSettings(answer="at {masks}!", nothing="none", most_masks=3), Letters(), WORDS)


def test_settings_that_could_not_be_read_are_refused() -> None:
    for bad in (
        {"answer": "It is."},
        {"answer": "{masks} {masks}"},
        {"nothing": " "},
        {"nothing": "{masks}"},
    ):
        with pytest.raises(ValidationError):
            ElisaSettings(**bad)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), max_size=6, unique=True))
def test_what_is_written_is_read(masks: list[int]) -> None:
    ids = ANSWERS.write(masks)
    assert ANSWERS.read(ids, Letters()) == masks[:3] and len(ids) <= ANSWERS.longest
    shown = "".join(f"<SEG_MASK_{mask + 1}>" for mask in masks[:3])
    assert ANSWERS.text(ids, Letters()) == (f"at {shown}!" if masks else "none")


def test_texts_that_are_no_answer_say_why() -> None:
    letters: Any = Letters()
    nothing = ANSWERS.read([*letters("hm")["input_ids"], 0], letters)
    assert isinstance(nothing, ParseFailure) and nothing.kind == FailureKind.NO_ANSWER
    cut = ANSWERS.read(letters("it may be")["input_ids"], letters, "length")
    assert isinstance(cut, ParseFailure) and cut.kind == FailureKind.TRUNCATED
    # Masks count wherever they stand, each once.
    free = [WORDS + 4, *letters(" and ")["input_ids"], WORDS + 1, WORDS + 4]
    assert ANSWERS.read(free, letters) == [4, 1]
    assert ANSWERS.text(free, letters) == "<SEG_MASK_5> and <SEG_MASK_2><SEG_MASK_5>"


@given(st.integers(0, 5), st.randoms(use_true_random=False))
def test_whoever_keeps_to_what_is_allowed_gives_an_answer(count: int, random: Any) -> None:
    said: list[int] = []
    while not said or said[-1] != 0:
        allowed = ANSWERS.allowed(said, count)
        assert allowed and len(said) < ANSWERS.longest
        said.append(random.choice(allowed))
    read = ANSWERS.read(said, Letters())
    assert isinstance(read, list) and len(read) <= 3 and all(mask < count for mask in read)
    assert ANSWERS.write(read) == said


def test_every_answer_is_allowed() -> None:
    for masks in ([], [0], [2, 1], [0, 1, 2]):
        ids = ANSWERS.write(masks)
        assert all(token in ANSWERS.allowed(ids[:place], 3) for place, token in enumerate(ids))


def test_pooling_is_the_mean_under_the_mask() -> None:
    features = torch.arange(12.0).view(6, 2)
    coverage = torch.tensor([[[1.0, 0, 0], [0, 0, 1]], [[0, 0.5, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    assert pooled(features, coverage).tolist() == [[5, 6], [2, 3], [0, 0]]


def test_a_place_tells_box_and_area() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 40, 60, 50], [50, 40, 60, 50]])
    one = box_features(boxes, torch.tensor([100.0, 100, 60]), (100, 50))
    assert one.shape == (3, GEOMETRY_WIDTH) and one.abs().max() <= 1
    assert (one[0] - one[1]).abs().max() > 0.5 and (one[1] - one[2]).abs().max() > 0.1
    twice = box_features(2 * boxes, torch.tensor([400.0, 400, 240]), (200, 100))
    assert torch.allclose(one, twice, atol=1e-5)  # shares of the image, not pixels
    features = torch.rand(4, 5, 3)
    for geometry in (True, False):
        found = embed_masks(
            features,
            np.ones((2, 4, 5), np.float32),
            boxes[:2].double().numpy(),
            np.array([100, 100]),
            (100, 50),
            geometry=geometry,
        )
        assert found.shape == (2, embedding_width(3, geometry))
        assert torch.allclose(found[:, :3], features.mean((0, 1)).expand(2, 3))


def test_the_adapter_takes_the_mean_off_and_lands_among_the_words() -> None:
    torch.manual_seed(0)
    words = 3 + 0.02 * torch.randn(500, 16)
    adapter = MaskAdapter(8, words, 32, 0.0)
    masks = torch.randn(50, 8)
    told = adapter(masks)
    assert told.mean().item() == pytest.approx(3, abs=0.01) and told.std().item() == pytest.approx(
        0.02, rel=0.3
    )
    adapter.mean.copy_(torch.full((8,), 7.0))
    assert torch.allclose(adapter(masks + 7), told, atol=1e-4)
    assert "mean" in adapter.state_dict()


class Echo(torch.nn.Module):
    """A language model without layers: what it reads is what it tells by."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.tell = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7, bias=False)

    def get_input_embeddings(self) -> Any:
        return self.read

    def get_output_embeddings(self) -> Any:
        return self.tell

    def set_input_embeddings(self, module: Any) -> None:
        self.read = module

    def set_output_embeddings(self, module: Any) -> None:
        self.tell = module

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.tell(self.read(ids))
        return result


def test_a_mask_token_means_another_mask_in_each_row() -> None:
    torch.manual_seed(0)
    model = Echo()
    vectors = torch.randn(2, 3, 4, requires_grad=True)
    extra = MaskTokens(vectors, torch.tensor([[True, True, False], [True, True, True]]))
    ids = torch.tensor([[1, 8, 2], [8, 1, 9]])
    plain = model(ids.clamp(max=6))
    before = set(model.state_dict())
    with extended(model, extra):
        logits = model(ids)
    assert logits.shape == (2, 3, 10) and set(model.state_dict()) == before
    assert torch.equal(logits[0, 0, :7], plain[0, 0])  # words are what they were
    assert torch.allclose(logits[0, 1, :7], model.tell(vectors[0, 1]))  # token 8 is row 0's second mask
    assert torch.allclose(logits[1, 0, :7], model.tell(vectors[1, 1]))
    assert torch.allclose(logits[1, 2, 7:], vectors[1] @ vectors[1, 2])
    assert logits[0, 0, 9] == torch.finfo(torch.float32).min  # row 0 has two masks
    logits[0, 0, 7].backward()
    gradient = vectors.grad
    assert gradient is not None and gradient[0, 0].any() and not gradient[1].any()
    assert torch.equal(model(ids.clamp(max=6)), plain)


def test_the_model_is_put_back_when_something_fails() -> None:
    model = Echo()
    inputs, outputs = model.read, model.tell
    extra = MaskTokens(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(RuntimeError), extended(model, extra):
        raise RuntimeError
    assert model.read is inputs and model.tell is outputs
