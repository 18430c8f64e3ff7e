"""Which weights of a run are on this machine. Nothing is fetched, and no hub is asked."""

from __future__ import annotations

import re
from pathlib import Path

from envs.assets import nothing_fetched
from envs.executors.config import SEGMENTER_FAMILIES, ExecutorConfig
from prompter.checkpoint import resolve_source
from prompter.errors import UserError
from recipes.dry_run.findings import NotHere

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def policy_folder(source: str) -> tuple[Path, bool]:
    """The local folder of a policy, and whether its weights are in it.

    Args:
        source: a folder, `shipped:NAME`, or a hub id, which is looked for in the hub's cache.

    Raises:
        NotHere: if it is a hub id that is not in the cache.
        UserError: if it is neither a folder nor a hub id, or the folder is no checkpoint.
    """
    folder = Path(resolve_source(source))
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(source):
            raise UserError(f"policy.model {source!r} is no folder, and has not the form of a hub id")
        folder = _cached(source, None)
    if not (folder / "config.json").is_file():
        raise UserError(f"policy.model {source!r}: {folder} holds no config.json")
    return folder, any(path for pattern in _WEIGHTS for path in folder.glob(pattern))


def describe_weights(folder: Path) -> str:
    """How large the weights in a folder are, in words."""
    size = sum(path.stat().st_size for pattern in _WEIGHTS for path in folder.glob(pattern))
    return f"{size / 1e9:.2f} GB of weights"


def executor_weights(config: ExecutorConfig) -> str:
    """Where a segmenter's weights are, in words.

    Raises:
        NotHere, envs.assets.NotFetched: if they would be fetched.
        UserError: if they are named by a path that is not there, or the family is code that is not.
    """
    if config.family == "box":
        return "has no weights"
    if config.family not in SEGMENTER_FAMILIES:
        SEGMENTER_FAMILIES.resolve(config.family)
        return "your own"
    if config.model is None:
        return f"{_published(config.family)} in the cache"
    path = Path(config.model).expanduser()
    if path.exists():
        return str(path)
    repository, _, file = config.model.partition(":")
    if not _HUB_ID.fullmatch(repository):
        raise UserError(f"executor.model {config.model!r} is no path that is here, and no hub id")
    folder = _cached(repository, config.revision)
    if file and not (folder / file).exists():
        raise NotHere(f"{config.model} would be fetched from the hub")
    return f"{config.model} in the hub's cache"


def _published(family: str) -> str:
    """Name of the file that a family takes without `model`, if it was fetched before."""
    with nothing_fetched():
        if family == "mobile-sam":
            from envs.executors.families.mobile_sam import fetch_weights

            return fetch_weights().name
        if family == "onnx":
            from envs.executors.families.onnx import fetch_model

            return fetch_model()[0].name
    raise UserError(f"executor family {family!r} needs `model`: a local path or a hub id")


def _cached(repository: str, revision: str | None) -> Path:
    """The newest snapshot of a hub repository in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise NotHere(f"{repository} is not in the hub's cache and would be fetched") from None
