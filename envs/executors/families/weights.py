"""Where a segmenter's weights come from, and what identifies them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError
from prompter.runs.files import sha256_of


def local_path(config: ExecutorConfig, what: str) -> Path:
    """The file or folder that `config.model` names, downloaded first if it is a hub id.

    A local path is taken as it is. "owner/name:file" is one file of a hub repository, "owner/name"
    the whole repository.

    Raises:
        UserError: if there is neither such a path nor such a repository; `what` names the thing
            expected, for the message.
    """
    if config.model is None:
        raise UserError(
            f"executor family {config.family!r} needs `model`: {what}, as a local path or a hub id."
        )
    path = Path(config.model).expanduser()
    if path.exists():
        return path
    repository, _, name = config.model.partition(":")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise UserError(
            f"executor model {config.model!r} is not here: expected {what}, as a local path or a hub id."
        )
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if name:
            return Path(hf_hub_download(repository, name, revision=config.revision))
        return Path(snapshot_download(repository, revision=config.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"executor model {config.model!r} is no local path and could not be fetched from the hub "
            f"({cause}): give a local path to {what}."
        ) from None


def load_state_dict(path: Path) -> dict[str, Any]:
    """Read a PyTorch checkpoint without running code in it; a dict under "model" is taken out.

    Raises:
        UserError: if the file is no such checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here, some of them its own
        raise UserError(f"{path} cannot be read as a PyTorch checkpoint ({type(error).__name__}).") from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, but a state dict was expected.")
    return state


def load_strictly(module: torch.nn.Module, state: dict[str, Any], path: Path, what: str) -> None:
    """Load a state dict into a module, refusing any missing or unknown key or other shape.

    Raises:
        UserError: naming the file and the first difference.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise UserError(f"{path} does not hold the weights of {what}: {detail[:200]}") from None


def fingerprint(config: ExecutorConfig, *paths: Path, preprocessing: str) -> str:
    """Key under which embeddings of this segmenter may be kept: 32 hex digits.

    It covers the bytes of the weights (every file of a folder), the preprocessing, and the type
    that the encoder computes in; not the device, nor anything that concerns decoding only.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (config.family, config.dtype, preprocessing):
        digest.update(part.encode() + b"\0")
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.name}:{sha256_of(file)}\0".encode())
    return digest.hexdigest()
