"""TRL's GRPOTrainer with our rollouts: the seam between TRL, the samplers and the executors.

TRL keeps tokenising, log-probabilities, importance sampling, loss, optimiser and checkpoints. What
is ours: completions come from a `WindowCollector` (any sampler, any executor), rewards were computed
with them, and groups that teach nothing never reach the loss.

The seam rests on attributes TRL does not promise (`use_vllm`, `vllm_generation`, `_last_loaded_step`,
`_generate_and_score_completions`, `_get_per_token_logps_and_entropies`), so TRL is pinned;
`tests/contract/test_trl.py` and `test_grpo_trainer.py` hold it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from envs.rollouts import image_key
from prompter.sampling.base import Sampler
from recipes.training.log import TrainingLog
from recipes.training.shared_prompts import log_probabilities
from recipes.training.shared_vision import share_vision, sharing_processor
from recipes.training.window import Window, WindowCollector

_SPLIT_BY_ROW = {"pixel_values", "image_grid_thw", "mm_token_type_ids"}


class SegmentationGRPOTrainer(GRPOTrainer):
    """GRPO whose rollouts are sampled and scored by a `WindowCollector`.

    Args:
        model: a PEFT model, or a plain one with a sampler that shares its weights.
        args: TRL's config.
        processor: the policy's processor.
        samples: size of the training set; rows are its indices.
        loop: samples and scores.
        log: writes metrics and rollouts.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        processor: Any,
        samples: int,
        loop: WindowCollector,
        log: TrainingLog,
    ) -> None:
        # A step's rows show few distinct images: process and encode each once.
        processor = sharing_processor(processor)
        share_vision(model)
        # TRL tokenises prompts together with completions; only left padding keeps them aligned.
        processor.tokenizer.padding_side = "left"
        prompts = [[{"role": "user", "content": ""}]] * samples
        self._grpo: Any = args
        self._group_size = int(args.num_generations or 1)
        self._rows = Dataset.from_dict({"prompt": prompts, "index": list(range(samples))})
        super().__init__(
            model=model,
            args=args,
            processing_class=processor,
            train_dataset=self._rows,
            reward_funcs=[self._reward],
        )
        self.remove_callback(PrinterCallback)
        self.loop, self.run_log = loop, log
        self._window: Window | None = None
        # Removed by `close`, and at the latest with the trainer.
        self._adapters = tempfile.TemporaryDirectory(prefix="prompter-adapter-", ignore_cleanup_errors=True)
        self.sampler_version = 0
        self._optimise_since: float | None = None
        # From here on TRL takes completions and their log-probabilities from us.
        self.use_vllm = True
        self._last_loaded_step = -1
        self.vllm_generation: Any = self

    # What TRL asks of `vllm_generation`.

    def sync_weights(self) -> None:
        """Nothing to do: `_generate_and_score_completions` synchronises before it samples."""

    def generate(self, *, prompts: Any, profiler: Any = None, **_: Any) -> tuple[None, list, list, None]:
        """Hand TRL the completions of the current window, in the order of its rows."""
        with profiler or nullcontext():
            assert self._window is not None
            completions = [one for group in self._window.groups for one in group.completions]
            if len(completions) != len(prompts):
                raise RuntimeError(f"TRL asked for {len(prompts)} completions of {len(completions)}")
            ids = [list(one.token_ids) for one in completions]
            logprobs = [[[value] for value in one.logprobs or ()] for one in completions]
            return None, ids, logprobs, None

    def _reward(self, prompts: Any, completions: Any, index: list[int], **_: Any) -> list[float | None]:
        """Hand TRL the rewards of the current window."""
        assert self._window is not None
        rewards = [reward for group in self._window.groups for reward in group.rewards]
        expected = [group.index for group in self._window.groups for _ in group.completions]
        if index != expected:
            raise RuntimeError("TRL reordered the rows of a window: rewards would go to other completions")
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Collect a window of rollouts for TRL's rows and let TRL do the rest with those kept."""
        if self._optimise_since is not None:
            self.loop.times.add("optimise", time.perf_counter() - self._optimise_since)
            self._optimise_since = None
        group_size = self._group_size
        indices = [row["index"] for row in inputs[::group_size]]
        with self.loop.times("sync"):
            self.synchronise()
        step = self.state.global_step + 1
        window = self.loop.collect(indices, step)
        self.run_log.collected(step, window, self.sampler_version)
        window.groups = self._fill(window, len(indices))
        self._window = window
        images: dict[str, Any] = {}
        rows = []
        for group in window.groups:
            sample = window.samples[group.index]
            key = image_key(sample)
            if key not in images:
                images[key] = self.loop.policy.model_image(sample.load_image())
            row = {
                "prompt": self.loop.policy.messages(sample.query),
                "image": images[key],
                "index": group.index,
            }
            rows += [row] * group_size
        with self.loop.times("old_logprobs"):
            batch = super()._generate_and_score_completions(rows)
        self._window = None
        self._optimise_since = time.perf_counter()
        return batch

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Log-probabilities as TRL's, with one copy of each prompt (`recipes.training.shared_prompts`)."""
        given = {name: value for name, value in options.items() if value is not None}
        wanted = bool(given.pop("compute_entropy", False))
        auxiliary = bool(given.pop("compute_aux_loss", False))
        images = given.pop("num_images", None)
        given.pop("batch_size", None)  # how many rows TRL would hold at a time
        inner = self.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        # Attention masks of our own need PyTorch's attention.
        packable = inner.config._attn_implementation == "sdpa" and not auxiliary
        if args or not packable or given.keys() != _SPLIT_BY_ROW or set(images or ()) != {1}:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **options
            )
        with self.accelerator.autocast():
            logps, entropies = log_probabilities(
                partial(model, fused_lm_head=True),
                inner.model.get_rope_index,
                input_ids,
                attention_mask,
                logits_to_keep,
                **given,
            )
        return logps, entropies if wanted else None, None

    def _fill(self, window: Window, wanted: int) -> list[Any]:
        """Keep the number of rows divisible into TRL's micro-batches; never hand over nothing.

        TRL splits a window into `steps_per_generation` parts and silently loses a remainder.
        """
        parts = self._grpo.steps_per_generation
        groups = list(window.groups)
        spare = [group for group in window.all_groups if not any(group is one for one in groups)]
        while (not groups or len(groups) * self._group_size % parts) and spare and len(groups) < wanted:
            groups.append(spare.pop(0))
        while len(groups) * self._group_size % parts:
            groups.pop()
        return groups

    def synchronise(self) -> None:
        """Bring the trainer's present weights to the sampler; its version is then `global_step`."""
        version = self.state.global_step
        sampler: Sampler = self.loop.sampler
        if version == sampler.version:
            return
        adapters = Path(self._adapters.name)
        folder = adapters / f"version-{version}"
        self.accelerator.unwrap_model(self.model).save_pretrained(folder, save_embedding_layers=False)
        sampler.sync_adapter(folder, version)
        self.sampler_version = sampler.version
        # The engine may still read the folder of the version it serves, never an older one.
        for old in adapters.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass TRL's figures on, and write them with ours into the run folder."""
        if self._optimise_since is not None:
            self.loop.times.add("optimise", time.perf_counter() - self._optimise_since)
            self._optimise_since = time.perf_counter()
        own = self._metrics["train"]
        averaged = {key: sum(values) / len(values) for key, values in own.items() if values}
        self.run_log.step(self.state.global_step, {**averaged, **logs}, self.loop.times.take())
        super().log(logs, start_time)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        """TRL's sampler, except that a resumed run sees the epoch's own order, not the first epoch's."""
        return _EpochRepeatSampler(
            data_source=self._rows if dataset is None else dataset,
            mini_repeat_count=self._group_size,
            batch_size=self._grpo.generation_batch_size // self._group_size,
            repeat_count=self._grpo.num_iterations * self._grpo.steps_per_generation,
            shuffle=bool(self._grpo.shuffle_dataset),
            seed=self.args.seed,
        )

    def restore(self, checkpoint: Path, step: int) -> None:
        """Load the weights of a checkpoint without training, for a run whose training had ended.

        TRL's own resumption would go on to the end of the epoch, beyond `max_steps`.
        """
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = step

    def close(self) -> None:
        """Remove the adapters written for the sampler."""
        self._adapters.cleanup()


class _EpochRepeatSampler(RepeatSampler):
    """Shuffles by (seed, epoch); accelerate's loader calls `set_epoch`."""

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(int(self.seed or 0) + epoch)
