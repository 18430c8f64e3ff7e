"""Keys and passwords have no place in a config: it is copied into the run folder, and run folders are shared.

What is refused is told by the key's name (`api_key`, `hub_token`, `password`) or by a value that has the
form of a known provider's key. Programs that need a key read it from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompter.errors import UserError

_NAMES = re.compile(
    r"(?:.*_)?(?:api_?key|access_?key|secret_?key|private_?key|secret|passwd|password|authorization"
    r"|credentials?)"
    r"|(?:(?:.*_)?(?:api|auth|access|bearer|hub|hf|hugging_?face|wandb|comet|neptune|mlflow|trackio)_)?token"
)
"""Whole names of keys, in lower case. `pad_token` is none; `api_key_env` names a variable."""

_ENVIRONMENT = re.compile(r"[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_KEY|_PAT|_PASS)")
"""Whole names of environment variables that hold one (`ray.env_vars.GITHUB_TOKEN`); these are upper case."""

_VALUES = re.compile(
    r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{30,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|wandb_v\d_\w{30,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+|(?i:bearer)\s+\S{16,}|\w+://[^/\s:@]+:[^/\s@]+@\S+"
)
"""Forms of keys: Hugging Face, OpenAI and its like, GitHub, Slack, AWS, Google, Weights & Biases, signed
tokens, an address with a password in it."""

_HEX = re.compile(r"[0-9a-f]{40}")
_MAY_BE_HEX = re.compile(r".*(?:revision|commit|sha|hash|digest|version|id|ref)", re.IGNORECASE)
"""Weights & Biases' older keys have the form of a git commit; keys of these names hold commits."""

_VARIABLES = (
    ("wandb", "WANDB_API_KEY"),
    ("hub", "HF_TOKEN"),
    ("hf_", "HF_TOKEN"),
    ("hugging", "HF_TOKEN"),
    ("comet", "COMET_API_KEY"),
    ("neptune", "NEPTUNE_API_TOKEN"),
    ("openai", "OPENAI_API_KEY"),
)


def refuse_secrets(data: Any, source: str, *, flags: Sequence[str] = ()) -> None:
    """Refuse values that hold a key or a password, wherever they stand.

    Args:
        data: what was read: mappings, lists and plain values.
        source: where it came from, for the error.
        flags: dotted keys that were given as flags; those are named as such.

    Raises:
        UserError: naming the key and the environment variable, never the value.
    """
    for path, value in _leaves(data, ()):
        name = path[-1] if path else ""
        if not _is_secret(name, value):
            continue
        dotted = ".".join(path)
        where = f"--{dotted}" if dotted in flags else f"{source}: {dotted}" if dotted else source
        said = f"{dotted} {value}".lower()
        own = name.replace("-", "_")
        variable = own if _ENVIRONMENT.fullmatch(own) else None
        variable = variable or next((variable for sign, variable in _VARIABLES if sign in said), None)
        hint = variable or "the variable that its program reads (WANDB_API_KEY, HF_TOKEN, …)"
        raise UserError(
            f"{where} holds a key or a password, and a config is copied into the run folder. Take it out; it "
            f"is read from the environment: set {hint}."
        )


def _is_secret(name: str, value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    plain = name.replace("-", "_")
    if _NAMES.fullmatch(plain.lower()) or _ENVIRONMENT.fullmatch(plain) or _VALUES.fullmatch(value.strip()):
        return True
    return _HEX.fullmatch(value.strip()) is not None and not _MAY_BE_HEX.fullmatch(name)


def _leaves(data: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(data, Mapping):
        return [leaf for key, value in data.items() for leaf in _leaves(value, (*path, str(key)))]
    if isinstance(data, list | tuple):
        return [leaf for number, value in enumerate(data) for leaf in _leaves(value, (*path, str(number)))]
    return [(path, data)]
