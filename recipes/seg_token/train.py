"""The training loop of a seg-token policy: transformers' Trainer over `SegTokenLearner`."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import append_lines, read_lines
from prompter.runs.values import dump_yaml
from recipes.seg_token.config import SegTokenConfig
from recipes.trainer_states import last_state

METRICS = "metrics.jsonl"
"""Mean losses of each `log_every` steps."""

POLICY = "policy"
"""Folder of the checkpoint in a run's folder."""


def trained_to_the_end(folder: Path, steps: int) -> bool:
    """Whether a run's folder holds its policy after all of its `steps`: every saved step writes one."""
    path = folder / METRICS
    if not path.exists() or not (folder / POLICY).is_dir():
        return False
    return any(record["step"] == steps for record in read_lines(path))


def train_seg_token(config: SegTokenConfig, command: str = "", *, resume: bool = False) -> Path:
    """Train, and return the folder of the checkpoint, which every saved step replaces.

    With `resume` a run that was broken off goes on after its last saved step, with weights, AdamW's state,
    schedule and images as they would have been. Exact where a batch is a whole number of images
    (`batch_size` a multiple of `queries_per_image`); else it goes on with the next whole image.

    Raises:
        UserError: if a part is not to be had or does not fit the others, or there is nothing to resume.
    """
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    from envs.executors.decoding.promptable import in_bfloat16
    from envs.seg_token.model import save_seg_token
    from recipes.seg_token.build import build, saved_weights
    from recipes.seg_token.data import SegCollator
    from recipes.seg_token.learner import SegTokenLearner

    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    output = Path(config.output_dir)
    source = _source(config)
    if len(source) < config.queries_per_image:
        raise UserError(
            f"{config.dataset if config.pairs is None else config.pairs.path} gives {len(source)} samples, "
            f"fewer than queries_per_image {config.queries_per_image}: not one image is whole"
        )
    state = last_state(output) if resume else None
    done = 0 if state is None else int(state.name.removeprefix("checkpoint-"))
    parts, adapted = build(config)
    learner = SegTokenLearner(parts, config.weights, bfloat16=in_bfloat16(config.bfloat16))
    with atomic_write(output / "config.yaml") as handle:
        handle.write(dump_yaml(config.model_dump(mode="json")))
    with atomic_write(output / "command.txt") as handle:
        handle.write(f"{command}\n")
    if not config.steps:
        save_seg_token(output / POLICY, parts, weights=saved_weights(adapted))
        return output / POLICY
    started = time.time()

    class SegTokenTrainer(Trainer):
        """Keeps the parts of the loss for the log."""

        parts_of_loss: dict[str, list[float]] = defaultdict(list)  # noqa: RUF012 - one trainer, one log

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            step = self.state.global_step
            masks = step >= config.masks_after and step % config.mask_every == 0
            losses = model(inputs["batch"], masks=masks)
            for name, value in losses.items():
                self.parts_of_loss[name].append(float(value.detach()))
            return losses["loss"]

    class Keep(TrainerCallback):
        """Logs, and writes the checkpoint."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step, last = state.global_step, state.global_step == config.steps
            if step % config.log_every == 0 or last:
                means = {
                    name: round(sum(values) / len(values), 5)
                    for name, values in trainer.parts_of_loss.items()
                    if values
                }
                trainer.parts_of_loss.clear()
                encoded = parts.executor.counters.encodes
                record = {
                    "step": step,
                    "samples": step * config.batch_size,
                    "minutes": round((time.time() - started) / 60, 3),
                    "encodes": encoded,
                    **means,
                }
                append_lines(output / METRICS, [record])
                print("  ".join(f"{name} {value}" for name, value in record.items()), flush=True)
            if step % config.save_every == 0 or last:
                save_seg_token(output / POLICY, parts, weights=saved_weights(adapted))
                control.should_save = True

    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        per_device_train_batch_size=config.batch_size,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        max_grad_norm=1.0,
        save_strategy="no",  # the callback asks for it
        save_total_limit=1,
        ignore_data_skip=True,  # the stream leaves out what was seen
        logging_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        seed=config.seed,
        disable_tqdm=True,
        accelerator_config={"dispatch_batches": False},
    )
    optimiser = _optimiser(learner, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(rate_share, config))
    trainer = SegTokenTrainer(
        model=learner,
        optimizers=(optimiser, schedule),
        args=arguments,
        train_dataset=_stream(source, parts.policy, config, done),
        data_collator=_Wrapped(SegCollator(parts.policy)),
        callbacks=[Keep()],
    )
    try:
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    finally:
        parts.executor.close()
    return output / POLICY


class _Wrapped:
    """Hands the batch to the model as one argument (the Trainer would spread a plain dict)."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, examples: Any) -> dict[str, Any]:
        return {"batch": self.collate(examples)}


def _source(config: SegTokenConfig) -> Any:
    """The samples, or the pairs, that are learned from."""
    if config.pairs is not None:
        from recipes.seg_token.pairs import Pairs

        root = config.pairs.root
        return Pairs(Path(config.pairs.path), None if root is None else Path(root))
    from envs.datasets import open_dataset

    return open_dataset(config.dataset, config.split, **config.options)


def _stream(source: Any, policy: Any, config: SegTokenConfig, done: int) -> Any:
    """The endless stream of examples, from where `done` steps ended."""
    skip = -(-done * config.batch_size // config.queries_per_image)
    if config.pairs is not None:
        from recipes.seg_token.pairs import PairStream

        return PairStream(source, policy, seed=config.seed, together=config.queries_per_image, skip=skip)
    from recipes.seg_token.data import SegStream

    return SegStream(source, policy, config, skip=skip)


def rate_share(config: SegTokenConfig, step: int) -> float:
    """The share of its highest learning rate that a step has.

    Where masks begin (`masks_after`), warm-up and decay begin anew: what decodes them has not been trained.
    """
    after = config.masks_after
    first, last = (after, config.steps) if step >= after else (0, min(after, config.steps))
    warm = min(config.warmup_steps, last - first)
    if step - first < warm:
        return (step - first + 1) / (warm + 1)
    gone = min(1.0, (step - first - warm) / max(1, last - first - warm))
    return {
        "cosine": (1 + math.cos(math.pi * gone)) / 2,
        "linear": 1 - gone,
        "constant_with_warmup": 1.0,
    }[config.schedule]


def _optimiser(learner: Any, config: SegTokenConfig) -> Any:
    """AdamW with LISA's betas; the head, and what starts from nothing, at rates of their own."""
    import torch

    model = learner.model
    fresh = [model.policy_model.get_input_embeddings(), model.policy_model.get_output_embeddings()]
    fresh += [model.projection, model.chooser, learner.place]
    rated = [(config.decoder_learning_rate, [model.head]), (config.new_learning_rate, fresh)]
    groups, taken = [], set[int]()
    for rate, modules in rated:
        ours = [one for module in modules if module is not None for one in module.parameters()]
        ours = [one for one in {id(one): one for one in ours}.values() if one.requires_grad]
        taken |= {id(one) for one in ours}
        groups.append({"params": ours, "lr": rate or config.learning_rate})
    rest = [one for one in learner.parameters() if one.requires_grad and id(one) not in taken]
    groups.append({"params": rest, "lr": config.learning_rate})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
    )
