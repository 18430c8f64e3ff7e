"""The mean of the weights of policies that began as one: what was learned stays, drift in part cancels.

"Model soups" (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482), of runs that differ in their seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prompter.errors import UserError
from prompter.sampling.weights import named_weights
from recipes.exporting.source import Exported
from recipes.exporting.weights import loaded


def mean_weights(found: Sequence[Exported], dtype: str = "auto") -> Any:
    """A model whose weights are the mean of those of `found`, summed in float32; in memory are two at a time.

    Args:
        found: whose, at least one.
        dtype: of the mean; "auto" is that in which the first are saved.

    Raises:
        UserError: if they did not begin as one policy, are not asked alike, or have other weights by name or
            shape; or one of them is there twice.
    """
    import torch

    _check_alike(found)
    first = loaded(found[0])
    saved = first.dtype
    model = first.float()
    mean = dict(named_weights(model))
    for count, one in enumerate(found[1:], start=2):
        given = dict(named_weights(loaded(one).float()))
        for name in sorted(mean.keys() | given.keys()):
            if name not in mean or name not in given or mean[name].shape != given[name].shape:
                raise UserError(
                    f"{one.weights} has other weights than {found[0].weights}, see {name!r}: "
                    "there is no mean of them"
                )
        with torch.no_grad():
            for name, value in given.items():
                mean[name].lerp_(value, 1 / count)
    return model.to(saved if dtype == "auto" else getattr(torch, dtype))


def _check_alike(found: Sequence[Exported]) -> None:
    first = found[0]
    for number, one in enumerate(found[1:], start=1):
        if one.weights.resolve() in {other.weights.resolve() for other in found[:number]}:
            raise UserError(f"{one.weights} is named twice: a mean would count it twice")
        if one.policy.settings != first.policy.settings:
            raise UserError(
                f"{one.weights} is asked otherwise than {first.weights} (prompter.json): "
                "a mean of them would be asked as neither was trained"
            )
        if one.base_is_known and first.base_is_known and one.base != first.base:
            raise UserError(
                f"{one.weights} began as {one.base}, and {first.weights} as {first.base}: "
                "weights of policies that did not begin as one have no use as a mean"
            )
