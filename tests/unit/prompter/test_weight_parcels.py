"""Weights survive the way to the engines bit by bit, whatever their type, shape and layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prompter.sampling.weights import named_weights, pack, unpack


def tensors() -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        ("embed", torch.randn(6, 4)),
        ("half", torch.randn(3, 5).to(torch.bfloat16)),
        ("scalar", torch.tensor(2.5, dtype=torch.float16)),
        ("turned", torch.randn(4, 7).T),
        ("counts", torch.arange(5)),
        ("cube", torch.randn(2, 3, 2, dtype=torch.float64)),
    ]


@pytest.mark.parametrize("parcel_bytes", [1, 100, 10**6])
def test_what_is_packed_is_unpacked(parcel_bytes: int) -> None:
    given = tensors()
    parcels = list(pack(given, parcel_bytes))
    for parcel in parcels:
        for one in parcel:
            one.content.flags.writeable = False  # as what comes out of an object store
    got = [pair for parcel in parcels for pair in unpack(parcel)]
    assert [name for name, _ in got] == [name for name, _ in given]
    for (_, one), (_, other) in zip(got, given, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_parcels_are_closed_at_their_size() -> None:
    pairs = [(str(i), torch.zeros(25)) for i in range(10)]  # 100 bytes each
    sizes = [sum(np.asarray(one.content).nbytes for one in parcel) for parcel in pack(pairs, 300)]
    assert sizes == [300, 300, 300, 100]
    assert list(pack([], 300)) == []


def test_tied_parameters_travel_once_and_need_no_gradient() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    ((name, value),) = named_weights(model)
    assert name == "0.weight" and not value.requires_grad
