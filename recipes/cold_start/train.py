"""The cold start: teach a small policy the answer's format and rough localisation.

Trains a small Qwen3-VL from scratch on `synthetic-aerial` (see `recipes.cold_start.model` for the
losses) and exports it every so often, with a card, so that it can be stopped at any time. Optimiser,
schedule and loop are transformers' Trainer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from prompter.runs.tables import markdown_table
from prompter.runs.values import dump_yaml
from recipes.cold_start.config import ColdStartConfig
from recipes.trainer_states import last_state


def cold_start(config: ColdStartConfig, command: str = "", *, resume: bool = False) -> Path:
    """Train, and return the folder of the last export.

    With `resume` a run that was broken off goes on after its last export, with the weights, the average,
    AdamW's state, the schedule and the images as they would have been. Exact where a batch is a whole number
    of images (`batch_size` a multiple of `queries_per_image`); else it goes on with the next whole image.

    Raises:
        UserError: if the config does not fit the data or the checkpoint, or there is nothing to resume.
    """
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    from envs.datasets import open_dataset
    from envs.executors.decoding.promptable import in_bfloat16
    from prompter.checkpoint import load_policy, load_weights
    from recipes.cold_start.average import WeightAverage
    from recipes.cold_start.data import Collator, ExampleStream, OpenedAnew
    from recipes.cold_start.model import ColdStartModel
    from recipes.cold_start.optimiser import MuonAndAdamW
    from recipes.cold_start.probe import probe
    from recipes.cold_start.small_policy import build_small_policy

    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    output = Path(config.output_dir)
    source = OpenedAnew(config.dataset, config.split, config.options)  # a process of its own draws batches
    held_out = open_dataset(config.dataset, "val", **config.options)
    if len(source) < config.queries_per_image:
        raise UserError(
            f"dataset {config.dataset} gives {len(source)} samples, fewer than queries_per_image "
            f"{config.queries_per_image}: not one image is whole"
        )
    if config.init is None:
        corpus = [source[index].query for index in range(min(len(source), 3000))]
        policy = build_small_policy(
            output,
            corpus,
            size=config.policy,
            action_space=config.action_space,
            frame=config.frame,
            seed=config.seed,
        )
    else:
        policy = load_policy(config.init, _changes(config))
    model = load_weights(policy, dtype=torch.float32)
    learner = ColdStartModel(
        model,
        policy,
        config.auxiliary,
        bfloat16=in_bfloat16(config.bfloat16),
        parts=config.length_parts,
        no_target_weight=config.no_target_weight,
    )
    if config.init_heads is not None:
        learner.load_heads(config.init_heads)
    average = None if config.average is None else WeightAverage(model, config.average)
    commit = _commit()
    history: list[dict[str, float]] = []
    state = last_state(output, whole=HISTORY) if resume else None
    done = 0
    if state is not None:
        history = json.loads((state / HISTORY).read_text(encoding="utf-8"))
        done = int(history[-1]["step"])
        if average is not None:
            average.resume(load_weights(load_policy(export_folder(output, done)), dtype=torch.float32), done)
    started = time.time() - (60 * history[-1]["minutes"] if history else 0)

    class ColdStartTrainer(Trainer):
        """Logs the parts of the loss beside their sum."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            losses = model(inputs["batch"])
            if self.state.global_step % 25 == 0:
                parts = {name: round(float(value.detach()), 4) for name, value in losses.items()}
                record = {"step": self.state.global_step, "minutes": (time.time() - started) / 60, **parts}
                print(json.dumps(record), flush=True)
            return losses["loss"]

    class Export(TrainerCallback):
        """Measures localisation and writes the checkpoint with its card."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if average is not None:
                average.update()
            if state.global_step % config.probe_every and state.global_step != config.steps:
                return
            exported = model if average is None else average.model
            exported.eval()
            figures = probe(exported, policy, held_out, samples=config.probe_samples)
            exported.train()
            history.append(
                {
                    "step": state.global_step,
                    "samples": state.global_step * config.batch_size,
                    "minutes": round((time.time() - started) / 60, 2),
                    **figures,
                }
            )
            print(json.dumps(history[-1]), flush=True)
            # Each export stays, so that one can be chosen that reinforcement learning can still improve.
            export = export_folder(output, state.global_step)
            with atomic_folder(export) as unfinished:
                exported.save_pretrained(unfinished)
                policy.save_protocol(unfinished)
                _write_card(unfinished, config, command, commit, history)
            shutil.copytree(export, output, dirs_exist_ok=True)
            control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with atomic_write(output / "trainer" / f"checkpoint-{state.global_step}" / HISTORY) as handle:
                json.dump(history, handle)

    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        per_device_train_batch_size=config.batch_size,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        save_strategy="no",  # the callback asks for it, after each export
        save_total_limit=1,
        ignore_data_skip=True,  # the stream leaves out what was seen, without drawing it again
        logging_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=4,
        dataloader_multiprocessing_context="spawn",
        remove_unused_columns=False,
        seed=config.seed,
        disable_tqdm=True,
        accelerator_config={"dispatch_batches": False},
    )
    collate = Collator(policy)
    optimiser = None
    if config.optimiser == "muon":
        optimiser = MuonAndAdamW(
            learner.named_parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
        )
    trainer = ColdStartTrainer(
        model=learner,
        optimizers=(optimiser, None),
        args=arguments,
        train_dataset=ExampleStream(
            source,
            policy,
            seed=config.seed,
            queries_per_image=config.queries_per_image,
            prose=config.prose,
            forms=config.forms,
            augment=config.augment,
            refuse=config.refusals,
            skip=-(-done * config.batch_size // config.queries_per_image),
        ),
        data_collator=_Wrapped(collate),
        callbacks=[Export()],
    )
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    return output


class _Wrapped:
    """Hands the batch to the model as one argument (the Trainer would spread a plain dict)."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, examples: Any) -> dict[str, Any]:
        return {"batch": self.collate(examples)}


HISTORY = "history.json"
"""What was measured so far, beside the trainer's state."""


def export_folder(output: Path, step: int) -> Path:
    return output / "exports" / f"step-{step:06d}"


def _changes(config: ColdStartConfig) -> dict[str, Any]:
    """Settings that a checkpoint continues with instead of its own: those that the config names."""
    changes: dict[str, Any] = {} if config.frame is None else {"frame": config.frame}
    if "image_side" in config.policy.model_fields_set:
        changes["image"] = {"side": config.policy.image_side}
    return changes


def _commit() -> str:
    """The commit the code stands at when training starts, for the card."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return found.stdout.strip() or "unknown"


def _write_card(
    output: Path, config: ColdStartConfig, command: str, commit: str, history: list[dict[str, float]]
) -> None:
    rows = [["step", "samples seen", "minutes", "points inside the target", "box IoU", "parse failures"]]
    for row in history:
        shares = (f"{row[name]:.3f}" for name in ("points_inside", "box_iou", "parse_failures"))
        rows.append([str(row["step"]), str(row["samples"]), f"{row['minutes']:.1f}", *shares])
    lines = [
        "# Cold start",
        "",
        "A small Qwen3-VL trained from scratch by `prompter cold-start`; meant to be improved by GRPO.",
        "",
        f"- command: `{command}`",
        f"- commit: {commit}",
        f"- data: {config.dataset} ({config.split}), seed {config.seed}, options {config.options}",
        "- licence: Apache-2.0, like the code; the data are drawn by the code",
        "",
        "Greedy answers on validation samples, without a segmenter (`recipes/cold_start/probe.py`):",
        "",
        *markdown_table(rows),
        "",
        "Config:",
        "",
        "```yaml",
        dump_yaml(config.model_dump(mode="json")).rstrip(),
        "```",
        "",
    ]
    with atomic_write(output / "README.md") as handle:
        handle.write("\n".join(lines))
