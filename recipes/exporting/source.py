"""What is to be exported: which weights, on which base, out of which run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from prompter.checkpoint import SETTINGS_FILE, Checkpoint, load_policy, resolve_source
from prompter.errors import UserError
from prompter.runs.config import describe_validation_error
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.checkpoints import newest_checkpoint

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Exported:
    """What is to be exported.

    Args:
        policy: how it is asked; its source holds the weights that an adapter goes onto, or all of them.
        base: what training began with, as the config says; the checkpoint itself where no run is known.
        weights: the folder of the checkpoint.
        adapter: the same folder if it holds an adapter, else None.
        run: the training run, if the checkpoint lies in one.
        config: its config.
    """

    policy: Checkpoint
    base: str
    weights: Path
    adapter: Path | None
    run: RunFolder | None
    config: TrainConfig | None

    @property
    def base_is_known(self) -> bool:
        """Whether `base` is what training began with, and not the checkpoint itself."""
        return self.config is not None or self.adapter is not None


def find_export(given: str) -> Exported:
    """Find the weights, the base and the run that a run folder or a checkpoint means.

    Args:
        given: a run folder, of which the final policy is taken, else the newest whole checkpoint; a
            checkpoint folder, in a run or not; or `shipped:NAME`, a policy or an adapter.

    Raises:
        UserError: if there is nothing to export, or the base is not known.
    """
    folder = _folder(given)
    run = _run_of(folder)
    config = None if run is None else _config_of(run)
    if run is not None and folder == run.path:
        folder = _newest(run)
    if (folder / _ADAPTER).is_file():
        base = _base_of(folder, config)
        overrides = {} if config is None else config.policy.setting_overrides()
        return Exported(load_policy(base, overrides), base, folder, folder, run, config)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} holds neither an adapter ({_ADAPTER}) nor a model (config.json and *.safetensors): "
            "there is nothing to export"
        )
    if (folder / SETTINGS_FILE).is_file() or config is None:
        policy = load_policy(folder)
    else:  # a checkpoint in the middle of training holds weights; how it is asked is the run's
        began = load_policy(config.policy.model, config.policy.setting_overrides())
        policy = replace(began, source=str(folder))
    return Exported(policy, str(folder) if config is None else config.policy.model, folder, None, run, config)


def _folder(given: str) -> Path:
    if given.startswith("shipped:"):
        try:
            return Path(resolve_source(given))
        except UserError:
            return Path(resolve_source(given, "adapter"))
    folder = Path(given)
    if not folder.is_dir():
        raise UserError(f"{given} is no folder: give a run folder, or one of its checkpoints")
    return folder


def _run_of(folder: Path) -> RunFolder | None:
    """The training run that a folder is, or lies in as RUN/checkpoints/NAME."""
    candidates = [folder, folder.absolute().parents[1]] if folder.absolute().parents[1:] else [folder]
    for path in candidates:
        run = RunFolder(path)
        if run.config_path.is_file() and run.checkpoints_dir.is_dir():
            return run
    return None


def _config_of(run: RunFolder) -> TrainConfig:
    try:
        return TrainConfig.model_validate(run.read_config())
    except ValidationError as error:
        raise UserError(describe_validation_error(error, str(run.config_path), model=TrainConfig)) from None


def _newest(run: RunFolder) -> Path:
    final = run.checkpoints_dir / "final"
    newest = final if final.is_dir() else newest_checkpoint(run.checkpoints_dir)
    if newest is None:
        raise UserError(f"{run.path} holds no whole checkpoint yet: there is nothing to export")
    return newest


def _base_of(folder: Path, config: TrainConfig | None) -> str:
    if config is not None:
        return config.policy.model
    try:
        base = json.loads((folder / _ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / _ADAPTER} does not name the model that the adapter is for")
    return base
