"""TRL's GRPOTrainer with our rollouts: the seam between TRL, the samplers and the executors.

TRL keeps tokenising, log-probabilities, importance sampling, loss, optimiser and checkpoints. What
is ours: completions come from a `WindowCollector` (any sampler, any executor), rewards were computed
with them, and groups that teach nothing never reach the loss.

The seam rests on attributes TRL does not promise (`use_vllm`, `vllm_generation`, `_last_loaded_step`,
`_generate_and_score_completions`, `_get_per_token_logps_and_entropies`), so TRL is pinned;
`tests/contract/test_trl.py` and `test_grpo_trainer.py` hold it.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from envs.rollouts import image_key
from envs.sample import Sample
from prompter.errors import InfrastructureError, RunStopped
from prompter.quantised import is_quantised
from prompter.runs.disk import full_disk_told
from prompter.sampling.token_sampler import suppressed_ids
from recipes.config import GroupConfig, OrderConfig
from recipes.training.ahead import WindowAhead
from recipes.training.average import WeightAverage
from recipes.training.checkpoints import newest_checkpoint, step_of, whole_checkpoint, write_ranks
from recipes.training.checks import window_steps
from recipes.training.drift import drift_from_base
from recipes.training.hand_over import WindowHandOver, without_images
from recipes.training.imitation import forget_ratios, imitate
from recipes.training.kinds import is_targeted, weighed_by_kind
from recipes.training.labelled_head import score_labelled_only
from recipes.training.log import TrainingLog
from recipes.training.metrics import importance_ratios
from recipes.training.mining import WindowOrder
from recipes.training.ranks.gather import load_saved, shards
from recipes.training.ranks.shares import Share, shares_of, take_out_padding
from recipes.training.ranks.world import RankLost, Ranks
from recipes.training.shared_prompts import shared_log_probabilities
from recipes.training.shared_vision import share_vision, sharing_processor
from recipes.training.stopping import StopRequest
from recipes.training.suppressed_tokens import suppress_tokens
from recipes.training.to_sampler import bring
from recipes.training.window import WindowCollector, fill_window


class SegmentationGRPOTrainer(GRPOTrainer):
    """GRPO whose rollouts are sampled and scored by a `WindowCollector`.

    Args:
        model: a PEFT model, or a plain one of which all weights are trained.
        args: TRL's config.
        processor: the policy's processor.
        collector: samples and scores, on rank 0; its source is the training set on all ranks.
        log: writes metrics and rollouts; None on other ranks than the first.
        stop: where a request to stop arrives.
        staleness: windows that sampling may be ahead, 0 or 1 (`recipes.training.ahead`).
        group: what of a group is trained on, and with which weights.
        order: which questions a window asks; None has each once in a pass.
        average: of the trained weights, told after each window and written into checkpoints.
        merged: whether the sampler is given all weights with the adapters merged, and not the adapters.
        ranks: those that train together; alone when None.
        measure_drift: whether a window's figures say how far the policy has come (`recipes.training.drift`).

    Attributes:
        ahead: the window after the one that is trained on; empty with staleness 0.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        processor: Any,
        collector: WindowCollector,
        log: TrainingLog | None,
        stop: StopRequest | None = None,
        staleness: int = 0,
        group: GroupConfig | None = None,
        order: WindowOrder | None = None,
        average: WeightAverage | None = None,
        merged: bool = False,
        ranks: Ranks | None = None,
        measure_drift: bool = False,
    ) -> None:
        self.ranks, self._measure_drift = ranks or Ranks(), measure_drift
        # A step's rows show few distinct images: process and encode each once.
        processor = sharing_processor(processor)
        if staleness:
            # A fast tokenizer keeps padding as a state, and two threads would pad each other's prompts.
            processor.tokenizer = copy.deepcopy(processor.tokenizer)
        share_vision(model)
        suppress_tokens(model, suppressed_ids(processor.tokenizer))
        score_labelled_only()
        # TRL tokenises prompts together with completions; only left padding keeps them aligned.
        processor.tokenizer.padding_side = "left"
        samples = len(collector.source)
        hand_over = WindowHandOver()
        self._grpo: Any = args
        self._group_size = int(args.num_generations or 1)
        self._group = group or GroupConfig()
        self.order = order or WindowOrder(OrderConfig(), args, samples)
        self._merged = merged
        self.average = average or WeightAverage(None, window_steps(args))
        super().__init__(
            model=model,
            args=args,
            processing_class=processor,
            # TRL counts rows, epochs and steps by it; which samples a window asks, `window_indices` says.
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": ""}]] * samples}),
            reward_funcs=[hand_over.reward],
        )
        if "ref" in getattr(model, "peft_config", ()):
            # TRL's copy of the adapters for `beta`. New adapters change nothing, so without it TRL takes the
            # plain model. With it transformers would resume the copy alone, and not what was trained.
            model.delete_adapter("ref")
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model).requires_grad_(False)
            share_vision(reference)
            suppress_tokens(reference, suppressed_ids(processor.tokenizer))
        if is_quantised(model):
            # TRL turns the adapters of a quantised model into bfloat16, where a number changes by two parts
            # in a thousand or not at all: most of a step of GRPO's size would be rounded away.
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.remove_callback(PrinterCallback)
        self.add_callback(self.average)
        self.chat_template_kwargs = dict(collector.policy.settings.template_options)
        self.collector, self.run_log = collector, log
        self._stop = stop or StopRequest()
        # Removed by `close`, and at the latest with the trainer.
        self._adapters = tempfile.TemporaryDirectory(prefix="prompter-adapter-", ignore_cleanup_errors=True)
        self.sampler_version = 0
        self._staleness = staleness
        self.ahead = WindowAhead(lambda indices, step: self.collector.collect(indices, step))
        self._optimise_since: float | None = None
        self._saves_in: Path | None = None
        # From here on TRL takes completions and their log-probabilities from us.
        self.use_vllm = True
        self._last_loaded_step = -1
        self.vllm_generation: Any = hand_over

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Collect the next window of rollouts; TRL's rows only say that one is due."""
        self._optimised(self.state.global_step)
        self._optimise_since = None
        return self.train_on(self._window_indices(self.state.global_step))

    def _window_indices(self, done: int) -> list[int]:
        """Positions in the training set that the window after `done` optimiser steps asks."""
        return self.order.indices(done // window_steps(self._grpo))

    def train_on(self, indices: list[int]) -> dict[str, Any]:
        """TRL's batch of this rank for a window that asks `indices`: collected on rank 0, shared by all."""
        step = self.state.global_step + 1
        samples: dict[int, Sample] = {}
        share = self._share(indices, step, samples)
        images: dict[str, Any] = {}
        rows = []
        for group in share.groups:
            if group.index not in samples:
                samples[group.index] = self.collector.source[group.index]
            sample = samples[group.index]
            key = image_key(sample)
            if key not in images:
                images[key] = self.collector.policy.model_image(sample.load_image())
            row = {
                "prompt": self.collector.policy.messages(sample.query),
                "image": images[key],
                "index": group.index,
            }
            rows += [row] * len(group.completions)
        # After this window's images were opened, which training waits for.
        self._begin_window_after(step)
        self.vllm_generation.serve(share.groups)
        with self.collector.times("old_logprobs", step):
            batch = super()._generate_and_score_completions(rows)
            if self._measure_drift and self.run_log is not None:
                self.run_log.note({"drift": drift_from_base(self, batch, self._group_size)})
        self.vllm_generation.serve(None)
        imitate(batch, share.groups, self._group)
        targeted = [is_targeted(samples[group.index]) for group in share.groups for _ in group.completions]
        batch["advantages"] = weighed_by_kind(batch["advantages"], targeted, self._group, self.ranks.collect)
        ratios = importance_ratios(batch) if self.ranks.count == 1 else self._without_padding(batch, share)
        if self.run_log is not None:
            self.run_log.note(ratios)
        forget_ratios(batch, self._group)
        self._optimise_since = time.perf_counter()
        return batch

    def _without_padding(self, batch: dict[str, Any], share: Share) -> dict[str, float | None]:
        """Make batch and figures those of the window without padding; return `importance_ratios` of it."""
        seen, ratios = take_out_padding(
            batch,
            share,
            self.ranks,
            loss_type=self.loss_type,
            ends={*self.eos_token_ids, self._tokenizer.pad_token_id},
            metrics=self._metrics["train"],
        )
        self.state.num_input_tokens_seen -= seen
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        return ratios

    def _share(self, indices: list[int], step: int, samples: dict[int, Sample]) -> Share:
        """This rank's rows of the next window, sampled ahead or now; all weights are synchronised.

        On rank 0, `samples` is filled with those that were opened for it. Where a signal stops the
        collecting, or lost machines end it, a checkpoint of what the weights are now is saved first.
        """

        def wait_for_ahead() -> None:
            if self.ahead.step is not None:
                with self.collector.times("wait", step), self._stop.at_once():
                    self.ahead.check(indices, step)

        def shares() -> list[Share]:
            # Not taken before the weights are synchronised: a run that is stopped there saves it.
            window = self.ahead.take(indices, step)
            if window is None:
                with self._stop.at_once():
                    window = self.collector.collect(indices, step)
            samples.update(window.samples)
            self.order.note([(group.index, group.rewards) for group in window.all_groups])
            self.collector.memory.note(window.all_groups, window.rollouts, window.samples)
            if self.run_log is not None:
                self.run_log.collected(step, window, window.sampler_version)
                self.run_log.note(self.order.figures())
            parts = int(self._grpo.steps_per_generation)
            groups = fill_window(window, len(indices), self._group_size, parts)
            return shares_of(groups, self.ranks.count, parts, self._tokenizer.eos_token_id)

        try:
            self.ranks.first(wait_for_ahead)
            with self.collector.times("sync", step):
                # Of several ranks only rank 0 may leave, and only where the others wait for its word.
                with self._stop.at_once() if self.ranks.count == 1 else nullcontext():
                    self.synchronise()
            return self.ranks.tell(shares)[self.ranks.rank]
        except RankLost:
            raise  # a checkpoint needs them all
        except (RunStopped, InfrastructureError):
            folder = Path(str(self.args.output_dir))
            if self.ranks.tell(lambda: step_of(newest_checkpoint(folder))) != step - 1:
                self._save_checkpoint(self.model, trial=None)
            raise

    def _begin_window_after(self, step: int) -> None:
        """Begin to collect the window after that of `step`, if windows may be ahead and there is one."""
        after = step + window_steps(self._grpo)
        if self._staleness and self.ranks.leads and after <= self.state.max_steps:
            self.ahead.start(self._window_indices(after - 1), after)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint that has its name when it is whole, and keep the last `save_total_limit`.

        Raises:
            DiskFull: if there is no space for it; the checkpoints before it are as they were.
        """
        folder, step, ranks = Path(str(self.args.output_dir)), self.state.global_step, self.accelerator
        saving = whole_checkpoint(
            folder,
            step,
            keep=self.args.save_total_limit,
            main=ranks.is_main_process,
            meet=ranks.wait_for_everyone,
        )
        told = full_disk_told(folder / f"checkpoint-{step}")
        with self.apart("checkpoint"), told, saving as self._saves_in:
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saves_in = None

    def _get_output_dir(self, trial: Any) -> str:
        """Where TRL writes `checkpoint-STEP`, and looks for those too many."""
        return super()._get_output_dir(trial) if self._saves_in is None else str(self._saves_in)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write beside it what else a checkpoint of this trainer needs."""
        if self.ranks.leads:
            self.ahead.save(Path(output_dir))
            self.average.save(Path(output_dir))
        super()._save_rng_state(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """TRL's, and beside them what resuming with other ranks has to know of those that wrote them."""
        if self.ranks.leads:
            shard = next((name for name in ("fsdp", "deepspeed") if getattr(self._grpo, name)), None)
            write_ranks(Path(output_dir), self.ranks.count, shard)
        super()._save_optimizer_and_scheduler(output_dir)

    def _calculate_rewards(self, inputs: Any, prompts: list[Any], *args: Any, **options: Any) -> Any:
        """TRL's rewards; the prompts lose their images here, since TRL then sends them to all ranks."""
        prompts[:] = [without_images(prompt) for prompt in prompts]
        return super()._calculate_rewards(inputs, prompts, *args, **options)

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
        shared = shared_log_probabilities(
            self.accelerator,
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            *args,
            most_passes=None if shards(model) is None else lambda mine: max(self.ranks.collect(mine)),
            **options,
        )
        if shared is not None:
            return shared
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **options
        )

    def synchronise(self) -> None:
        """Bring the present adapters, or all weights, to the sampler; its version is then `global_step`.

        A window in flight is waited for, so that it is of one version, and sampler and segmenters are free.
        """
        self.ahead.wait()
        version = self.state.global_step
        if version == self.sampler_version:
            return
        model, folder = self.accelerator.unwrap_model(self.model), Path(self._adapters.name)
        bring(self.ranks, model, self.collector.sampler, version, folder, merged=self._merged)
        self.sampler_version = version

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass TRL's figures on, and write them with ours into the run folder."""
        self._optimised(self.state.global_step)
        own = self._metrics["train"]
        averaged = {key: sum(values) / len(values) for key, values in own.items() if values}
        if self.run_log is None:
            self.collector.times.take()  # nobody else empties them
            self.collector.times.take_events()
        else:
            self.run_log.step(self.state.global_step, {**averaged, **logs}, self.collector.times)
        super().log(logs, start_time)

    @contextmanager
    def apart(self, phase: str) -> Iterator[None]:
        """Within it, time counts as this phase and not as optimising."""
        step = self.state.global_step
        self._optimised(step)
        with self.collector.times(phase, step):
            yield
        if self._optimise_since is not None:
            self._optimise_since = time.perf_counter()

    def _optimised(self, step: int) -> None:
        """Note the time since a window was handed over, or since the last call, as spent optimising."""
        if self._optimise_since is not None:
            now = time.perf_counter()
            self.collector.times.record("optimise", self._optimise_since, now, step)
            self._optimise_since = now

    def restore(self, checkpoint: Path, step: int) -> None:
        """Load the weights of a checkpoint without training, for a run whose training had ended.

        TRL's own resumption would go on to the end of the epoch, beyond `max_steps`.
        """
        if self.is_fsdp_enabled:  # transformers loads into a model that is sharded already
            load_saved(self.model, checkpoint)
        else:
            self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = step

    def close(self) -> None:
        """Wait for a window in flight, and remove the adapters written for the sampler."""
        self.ahead.wait()
        self._adapters.cleanup()
