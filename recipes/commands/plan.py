"""Say what a run takes before it is started: memory of every device, time, and what to turn.

No weights are loaded and no dataset is opened. The model's shape is read from its config, or, for a hub id
that is not on this machine, from a table of known models. Any further `--dotted.key value` overrides the
config, as in `prompter train`.

    prompter plan recipes/configs/qwen2.5-vl-3b.yaml --memory 24
    prompter plan CONFIG --from runs/earlier      rates as that run had them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from recipes.commands.output import add_json_file, tell
from recipes.commands.train import config_keys as config_keys

if TYPE_CHECKING:
    from recipes.planning.plan import Plan

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("config", type=Path, help="a training config")
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="of one GPU, or of the machine for a run without GPUs"
    )
    parser.add_argument("--host-memory", type=float, metavar="GIB", help="of the machine beside its GPUs")
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="how many there are (default: as many as the run asks for)"
    )
    parser.add_argument(
        "--image-size",
        metavar="WxH",
        help="of the data's images, where the policy keeps their ratio (default: the largest it allows)",
    )
    parser.add_argument("--rates", type=Path, metavar="FILE", help="YAML of measured or assumed rates")
    parser.add_argument(
        "--from", dest="run", type=Path, metavar="RUN", help="take the rates of a run's folder"
    )
    add_json_file(parser, "the plan")


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 if the run fits or nothing was compared, 1 if it does not fit."""
    from recipes.config import load_config
    from recipes.planning.advice import advise
    from recipes.planning.plan import estimate
    from recipes.planning.text import plan_lines

    config = load_config(args.config, args.overrides)
    limits: dict[str, Any] = {
        "memory_gib": args.memory,
        "host_gib": args.host_memory,
        "gpus": args.gpus,
        "image_wh": _size(args.image_size),
    }
    plan = estimate(config, **limits, rates=_rates(args))
    advice = advise(plan, **limits)
    print(*plan_lines(plan, advice), sep="\n")
    tell(**_as_json(plan))
    if args.json:
        args.json.write_text(json.dumps(_as_json(plan), indent=2), encoding="utf-8")
    return 1 if plan.fits is False else 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--image-size should be WIDTHxHEIGHT in pixels, such as 512x512, but is {text!r}")
    return int(width), int(height)


def _rates(args: argparse.Namespace) -> Any:
    from recipes.config import TrainConfig
    from recipes.planning.model import open_shape, prompt_tokens
    from recipes.planning.rates import rates_of_run, read_rates

    if args.rates and args.run:
        raise UserError("give either --rates or --from, not both")
    if args.rates:
        return read_rates(args.rates)
    if args.run:
        from prompter.runs.run_folder import RunFolder

        earlier = TrainConfig.model_validate(RunFolder.open(args.run).read_config())
        tokens, _ = prompt_tokens(earlier, open_shape(earlier.policy.model), _size(args.image_size))
        return rates_of_run(args.run, tokens.total)
    return None


def _as_json(plan: Plan) -> dict[str, Any]:
    devices = [
        {
            "name": device.name,
            "count": device.count,
            "peak_bytes": round(device.peak),
            "limit_bytes": None if device.limit is None else round(device.limit),
            "processes": [
                {
                    "name": part.name,
                    "count": number,
                    "peak_bytes": round(part.peak),
                    "phases": {phase: round(size) for phase, size in part.phases.items()},
                    "items": [
                        {
                            "name": item.name,
                            "bytes": round(item.size),
                            "phase": item.phase,
                            "note": item.note,
                        }
                        for item in part.items
                    ],
                }
                for part, number in device.parts
            ],
        }
        for device in plan.devices
    ]
    return {
        "model": plan.shape.source,
        "parameters": plan.shape.parameters,
        "shape_from_table": plan.shape.from_table,
        "image_tokens": plan.tokens.image,
        "text_tokens": plan.tokens.text,
        "completion_tokens": plan.completion,
        "fits": plan.fits,
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "devices": devices,
        "time": None if plan.time is None else plan.time.model_dump(),
    }
