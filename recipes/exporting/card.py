"""The model card of an exported policy: what it is, what made it, how to ask it, what may be done with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from envs.datasets.registry import dataset_info
from prompter import __version__
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.runs.tables import markdown_table
from prompter.runs.values import dump_yaml
from recipes.config import TRAINER_DEFAULTS, TrainConfig
from recipes.exporting.source import Exported
from recipes.training.checkpoints import step_of

_FIGURES = ("gIoU", "cIoU", "P@0.5", "N-acc", "T-acc", "parse-failures")
"""Of a held-out evaluation, those that a card shows where they were logged."""


def model_card(found: Exported, name: str, dtype: str, others: Sequence[Exported] = ()) -> str:
    """The text of README.md.

    Args:
        found: what is exported.
        name: of the new folder, the card's heading.
        dtype: of the weights.
        others: where the weights are a mean, whose they are beside those of `found`.
    """
    is_hub_id = found.base.count("/") == 1 and not found.base.startswith((".", "/"))
    head = {
        **({"base_model": found.base} if is_hub_id else {}),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["prompter", "grpo", "referring-segmentation"],
    }
    parts = [
        f"---\n{dump_yaml(head)}---",
        f"# {name}",
        f"A vision-language model that answers a question about an image with boxes and points for a frozen "
        f"Segment Anything Model. Exported by Prompter {__version__}.",
        _made_from(found, dtype),
        *([_mean_of([found, *others])] if others else []),
        *_training(found, figures=not others),
        _asking(found),
        _licence(found),
    ]
    return "\n\n".join(parts) + "\n"


def _made_from(found: Exported, dtype: str) -> str:
    trained = found.config.policy.lora if found.config else found.adapter
    kind = "adapters, merged into the base" if trained else "all were trained"
    step = _step(found)
    lines = [f"- base: {found.base}", f"- weights: {kind}; {dtype}"]
    if step is not None:
        lines.append(f"- optimiser steps: {step}")
    return "\n".join(lines)


def _mean_of(found: Sequence[Exported]) -> str:
    """Whose weights the mean is of; no name of a folder, which says nothing elsewhere."""
    lines = [f"The weights are the mean of those of {len(found)} policies that began as one:", ""]
    for one in found:
        seed = "a run that is not known here" if one.config is None else f"seed {one.config.seed}"
        step = _step(one)
        lines.append(f"- {seed}" + ("" if step is None else f", {step} optimiser steps"))
    return "\n".join([*lines, "", "What follows is told of the first of them."])


def _step(found: Exported) -> int | None:
    """Optimiser steps behind the weights, if a run tells."""
    if found.run is None:
        return None
    if found.weights.name.startswith("checkpoint-"):
        return step_of(found.weights)
    trained = found.run.read_metrics("train")
    return int(trained[-1]["step"]) if trained else None


def _training(found: Exported, *, figures: bool) -> list[str]:
    """What the run tells: data, reward, recipe and, where they are of these weights, figures."""
    run, config = found.run, found.config
    if run is None or config is None:
        return ["## Training\n\nThe checkpoint lay in no run folder: what made it is not known here."]
    data = f"{config.dataset.name}, split {config.dataset.split}"
    rewards = ", ".join(f"{name} (weight {weight:g})" for name, weight in config.rewards.items())
    executors = config.executor if isinstance(config.executor, list) else [config.executor]
    lines = [
        "## Training",
        "",
        f"- data: {data}",
        f"- reward: {rewards}, of masks by {', '.join(one.name for one in executors)}",
        "- command: `prompter train recipe.yaml`, with `recipe.yaml`:",
        "",
        "```yaml",
        dump_yaml(_recipe(config)).rstrip(),
        "```",
    ]
    return ["\n".join(lines), *(_figures(run, config, _step(found)) if figures else [])]


def _recipe(config: TrainConfig) -> dict[str, Any]:
    """What differs from the defaults, without the places of this machine."""
    plain = config.model_dump(mode="json", exclude_defaults=True)
    plain["run_dir"] = "runs/again"
    given = {key: value for key, value in config.trainer.items() if TRAINER_DEFAULTS.get(key) != value}
    plain["trainer"] = {key: value for key, value in given.items() if value is not None}
    for section in ("dataset", "eval"):
        options = (plain.get(section) or {}).get("options")
        if isinstance(options, dict):
            for key in ("root", "path"):
                if key in options:
                    options[key] = "…"
    return plain


def _figures(run: RunFolder, config: TrainConfig, step: int | None) -> list[str]:
    """The held-out evaluations up to a step, as a table."""
    found = [one for one in run.read_metrics("eval") if step is None or one["step"] <= step]
    if not found:
        return []
    shown = [name for name in _FIGURES if any(name in one for one in found)]
    rows = [["step", *shown]]
    for one in (found[0], found[-1])[: len(found)]:
        rows.append([str(one["step"]), *(_figure(one.get(name)) for name in shown)])
    where = f"{config.held_out.name}, split {config.eval.split}"
    samples = "all samples" if config.eval.samples is None else f"the first {config.eval.samples:,} samples"
    table = "\n".join(markdown_table(rows))
    return [f"## Figures\n\nGreedy, held out ({where}, {samples}), by the strict protocol:\n\n{table}"]


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _asking(found: Exported) -> str:
    policy = found.policy
    limits = policy.settings.image
    if limits.side is not None:
        shown = f"squashed to {limits.side} x {limits.side} pixels"
    else:
        shown = (
            f"brought to between {limits.min_pixels:,} and {limits.max_pixels:,} pixels in their own shape, "
            f"with sides that are multiples of {policy.factor}"
        )
    frame = {
        "absolute": "pixels of the image as it is shown",
        "thousandths": "0 to 1000 along each side",
    }[policy.frame_kind]
    return f"""## How to ask it

With Prompter, which reads `prompter.json` beside the weights:

```
prompter eval --benchmark NAME:SPLIT --policy FOLDER --executor FAMILY:MODEL --out runs/eval
```

With transformers (`AutoModelForImageTextToText`, `AutoProcessor`) or vLLM: images are {shown} before they are
given; coordinates are {frame}; the chat for the query "…" is

```json
{_chat(found)}
```"""


def _chat(found: Exported) -> str:
    return json.dumps(found.policy.messages("…"), ensure_ascii=False, indent=1)


def _licence(found: Exported) -> str:
    data = ""
    if found.config is not None:
        try:
            licence = dataset_info(found.config.dataset.name).licence
        except UserError:
            licence = ""
        if licence:
            data = f" The training data, {found.config.dataset.name}, is under: {licence}."
    return (
        f"## Licence\n\nThese weights are derived from {found.base} and stand under its licence: read that "
        f"before you pass them on, and name it here.{data}"
    )
