"""Training of an ELISA policy, by transformers' Trainer.

What is trained: the adapter, and the language model (whole, or LoRA on it). The vision tower and the
segmenter are frozen, so that a mask's embedding is computed once. The loss is the next token's, over words
and the image's masks alike. Each checkpoint of the Trainer is a policy that `prompter eval` opens.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.runs.files import atomic_folder
from prompter.runs.jsonl import append_lines, drop_unfinished_line
from recipes.elisa.config import ElisaConfig
from recipes.trainer_states import last_state

if TYPE_CHECKING:
    from prompter.elisa.folder import ElisaPolicy


METRICS = "metrics.jsonl"
"""The parts of the loss and the minutes so far, every `log_every` steps, as they are printed."""

POLICY = "policy"
"""Folder of the policy in a run's folder."""

SEGMENTER_CHANNELS = 256
"""Channels of the image embeddings of SAM, MobileSAM and SAM 2."""


def train_elisa(config: ElisaConfig, command: str = "", *, resume: bool = False) -> Path:
    """Train, and return the folder of the policy.

    With `resume` a run that was broken off goes on after its last checkpoint, with the weights, AdamW's
    state, the schedule and the order of the samples as they would have been.

    Raises:
        UserError: if the config does not fit the data or the checkpoint, or there is nothing to resume.
    """
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from envs.datasets import open_dataset
    from prompter.elisa.batch import Collator
    from recipes.elisa.data import Lessons, likeness, mean_embedding, prepare

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    output = Path(config.output_dir)
    state = last_state(output) if resume else None
    source = open_dataset(config.dataset, config.split, **config.options)
    elisa = open_base(config, command)
    proposer = config.proposer.open()
    started = time.time()
    try:
        lessons = prepare(source, elisa, proposer, config)
    finally:
        proposer.close()
    mean = mean_embedding(lessons)
    if len(mean) != elisa.width:
        raise UserError(
            f"masks have embeddings of width {len(mean)} by {config.proposer.executor.name}, "
            f"not {elisa.width}: `features: segmenter` takes SAM's {SEGMENTER_CHANNELS} channels."
        )
    elisa.model.adapter.mean.copy_(mean)
    told = {
        "samples": len(lessons),
        "masks a sample": round(sum(len(one.masks) for one in lessons) / len(lessons), 1),
        "with targets on offer": sum(one.truth for one in lessons),
        "images proposed for": proposer.computed,
        "likeness": likeness(lessons, torch.zeros_like(mean)),
        "likeness less the mean": likeness(lessons, mean),
        "minutes": round((time.time() - started) / 60, 2),
    }
    print(json.dumps(told), flush=True)

    class ElisaTrainer(Trainer):
        """Saves and resumes policies; logs the parts of the loss."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            losses: dict[str, torch.Tensor] = model(inputs["batch"], mask_weight=config.mask_weight)
            if self.state.global_step % config.log_every == 0:
                parts = {name: round(float(value.detach()), 4) for name, value in losses.items()}
                minutes = round((time.time() - started) / 60, 2)
                line = {"step": self.state.global_step, "minutes": minutes, **parts}
                print(json.dumps(line), flush=True)
                append_lines(output / METRICS, [line])
            return losses["loss"]

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(output_dir or output / "trainer")
            folder.mkdir(parents=True, exist_ok=True)
            elisa.trained["steps"] = self.state.global_step
            elisa.save(folder)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            elisa.load_weights_of(Path(resume_from_checkpoint))

    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        per_device_train_batch_size=config.batch_size,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.schedule,
        max_grad_norm=1.0,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=config.keep,
        logging_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        seed=config.seed,
        disable_tqdm=True,
    )
    rates = [
        (elisa.model.adapter.parameters(), config.adapter_learning_rate),
        (elisa.model.policy_model.parameters(), config.learning_rate),
    ]
    groups = [{"params": [one for one in some if one.requires_grad], "lr": rate} for some, rate in rates]
    trainer = ElisaTrainer(
        model=elisa.model,
        optimizers=(torch.optim.AdamW(groups, weight_decay=config.weight_decay), None),
        args=arguments,
        train_dataset=Lessons(source, lessons, elisa),
        data_collator=_as_one_argument(Collator(elisa.checkpoint, elisa.model.policy_model)),
    )
    output.mkdir(parents=True, exist_ok=True)
    if (output / METRICS).exists():
        drop_unfinished_line(output / METRICS)
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    ended = {"step": config.steps, "minutes": round((time.time() - started) / 60, 2)}
    append_lines(output / METRICS, [ended])
    policy = output / POLICY
    with atomic_folder(policy) as unfinished:
        elisa.save(unfinished)
    return policy


def open_base(config: ElisaConfig, command: str) -> ElisaPolicy:
    """The policy a config starts from, with a fresh adapter, its trained parameters marked."""
    import torch

    from prompter.checkpoint import load_policy, load_weights, resolve_source
    from prompter.elisa.features import VisionTower, embedding_width
    from prompter.elisa.folder import build_elisa

    checkpoint = load_policy(config.policy, config.policy_settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_weights(checkpoint, dtype=torch.float32 if device == "cpu" else "auto", device=device)
    channels = VisionTower(checkpoint, model).width
    if config.elisa.features == "segmenter":
        channels = SEGMENTER_CHANNELS
    if config.lora is None:
        model.model.visual.requires_grad_(False)
    else:
        from peft import get_peft_model

        model = get_peft_model(model, config.lora.for_family(checkpoint.family))
    return build_elisa(
        checkpoint,
        model,
        config.elisa,
        embedding_width(channels, config.elisa.geometry),
        base=None if config.lora is None else str(resolve_source(config.policy)),
        proposer=config.proposer.model_dump(mode="json", exclude={"folder"}),
        trained={
            "command": command,
            "policy": config.policy,
            "dataset": f"{config.dataset}:{config.split}",
            "samples": config.samples,
            "seed": config.seed,
            "batch_size": config.batch_size,
        },
    )


def _as_one_argument(collate: Any) -> Any:
    """Hand the batch to the model as one argument (the Trainer would spread a plain dict)."""
    return lambda questions: {"batch": collate(questions)}
