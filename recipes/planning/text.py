"""A plan in words: tables of memory, the sum of time, and what to turn."""

from __future__ import annotations

from collections.abc import Sequence

from prompter.runs.tables import text_table
from recipes.planning.advice import Advice
from recipes.planning.parts import GIB, Device, Part
from recipes.planning.plan import Plan
from recipes.planning.rates import TimePlan


def plan_lines(plan: Plan, advice: Sequence[Advice] = ()) -> list[str]:
    """A plan as lines of text for a terminal."""
    tokens, shape = plan.tokens, plan.shape
    size = f" at {tokens.image_wh[0]} x {tokens.image_wh[1]} pixels" if tokens.image_wh else ""
    lines = [
        f"{shape.source}: {shape.parameters:,} parameters, {shape.vision_parameters:,} of them in the "
        "vision tower",
        f"a prompt: {tokens.image} image tokens{size} and {tokens.text} of text; "
        f"a completion: up to {plan.completion} tokens; keys and values: "
        f"{shape.kv_bytes('bfloat16') / 1024:.0f} KiB a token in bfloat16",
    ]
    lines += [f"note: {note}" for note in plan.notes]
    for device in plan.devices:
        lines += ["", *_device_lines(device)]
    lines += ["", *_verdict(plan)]
    if plan.time is not None:
        lines += ["", *_time_lines(plan.time)]
    for number, one in enumerate(advice):
        if not number:
            lines += ["", "What would make it fit, the mildest first:"]
        lines.append(f"  {one.flags}   ({one.why}; {_peaks(one.plan)})")
    if plan.fits is False and not advice:
        lines += [
            "",
            "No setting that is known here makes it fit: take larger or more devices, or a smaller model.",
        ]
    return lines


def _device_lines(device: Device) -> list[str]:
    each = ", each" if device.count > 1 else ""
    limit = f" of {device.limit / GIB:.1f}" if device.limit is not None else ""
    lines = [f"{device.name}{each}: {device.peak / GIB:.1f}{limit} GiB at most"]
    for part, number in device.parts:
        lines += [f"  {line}" for line in _part_lines(part, number)]
    return lines


def _part_lines(part: Part, number: int) -> list[str]:
    phase = f", while it is to {part.peak_phase}" if part.peak_phase else ""
    times = f"{number} x " if number > 1 else ""
    rows = [
        (
            f"  {item.name}",
            f"{item.size / GIB:.2f}",
            f"{'[' + item.phase + '] ' if item.phase else ''}{item.note}",
        )
        for item in part.items
    ]
    return [f"{times}{part.name}: {part.peak / GIB:.2f} GiB{phase}", *text_table(rows)]


def _verdict(plan: Plan) -> list[str]:
    lines = [f"does not work: {problem}" for problem in plan.problems]
    for device in plan.devices:
        if device.fits is False and device.limit is not None:
            short = (device.peak - device.limit) / GIB
            lines.append(f"does not fit: {device.name} is {short:.1f} GiB short")
    if not lines and plan.fits:
        lines = ["It fits."]
    return lines or ["Give --memory GIB to have this compared with a device."]


def _time_lines(time: TimePlan) -> list[str]:
    lines = []
    if time.seconds:
        phases = ", ".join(f"{name} {value:.0f}" for name, value in time.seconds.items())
        lines.append(f"1,000 completions: {time.total:.0f} s ({phases})")
        if time.gpu_hours is not None:
            lines[-1] += f", {time.gpu_hours:.2f} GPU-hours"
        if time.completions:
            hours = time.total * time.completions / 1000 / 3600
            lines.append(f"the whole run: {time.completions:,} completions, {hours:.1f} hours")
            if time.gpu_hours is not None:
                lines[-1] += f", {time.gpu_hours * time.completions / 1000:.0f} GPU-hours"
    if time.missing:
        lines.append(f"not in this time, as no rate was given: {', '.join(time.missing)}")
    return lines


def _peaks(plan: Plan) -> str:
    return ", ".join(f"{device.name} {device.peak / GIB:.1f} GiB" for device in plan.devices)
