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
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from envs.rollouts import image_key
from prompter.errors import InfrastructureError, RunStopped
from prompter.quantised import is_quantised
from prompter.runs.disk import full_disk_told
from prompter.sampling.base import Sampler
from prompter.sampling.token_sampler import suppressed_ids
from prompter.sampling.weights import named_weights
from recipes.training.ahead import WindowAhead
from recipes.training.checkpoints import newest_checkpoint, step_of, whole_checkpoint
from recipes.training.checks import window_steps
from recipes.training.hand_over import WindowHandOver
from recipes.training.labelled_head import score_labelled_only
from recipes.training.log import TrainingLog
from recipes.training.metrics import importance_ratios
from recipes.training.order import window_indices
from recipes.training.shared_prompts import shared_log_probabilities
from recipes.training.shared_vision import share_vision, sharing_processor
from recipes.training.stopping import StopRequest
from recipes.training.suppressed_tokens import suppress_tokens
from recipes.training.window import Window, WindowCollector, fill_window


class SegmentationGRPOTrainer(GRPOTrainer):
    """GRPO whose rollouts are sampled and scored by a `WindowCollector`.

    Args:
        model: a PEFT model, or a plain one of which all weights are trained.
        args: TRL's config.
        processor: the policy's processor.
        collector: samples and scores; its source is the training set, rows are its indices.
        log: writes metrics and rollouts.
        stop: where a request to stop arrives.
        staleness: windows that sampling may be ahead, 0 or 1 (`recipes.training.ahead`).

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
        log: TrainingLog,
        stop: StopRequest | None = None,
        staleness: int = 0,
    ) -> None:
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
        prompts = [[{"role": "user", "content": ""}]] * samples
        hand_over = WindowHandOver()
        self._grpo: Any = args
        self._group_size = int(args.num_generations or 1)
        self._rows = Dataset.from_dict({"prompt": prompts, "index": list(range(samples))})
        super().__init__(
            model=model,
            args=args,
            processing_class=processor,
            train_dataset=self._rows,
            reward_funcs=[hand_over.reward],
        )
        if is_quantised(model):
            # TRL turns the adapters of a quantised model into bfloat16, where a number changes by two parts
            # in a thousand or not at all: most of a step of GRPO's size would be rounded away.
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.remove_callback(PrinterCallback)
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
        """Collect a window of rollouts for TRL's rows and let TRL do the rest with those kept."""
        self._optimised(self.state.global_step)
        self._optimise_since = None
        group_size = self._group_size
        indices = [row["index"] for row in inputs[::group_size]]
        step = self.state.global_step + 1
        window = self._next_window(indices, step)
        self.run_log.collected(step, window, window.sampler_version)
        groups = fill_window(window, len(indices), group_size, self._grpo.steps_per_generation)
        images: dict[str, Any] = {}
        rows = []
        for group in groups:
            sample = window.samples[group.index]
            key = image_key(sample)
            if key not in images:
                images[key] = self.collector.policy.model_image(sample.load_image())
            row = {
                "prompt": self.collector.policy.messages(sample.query),
                "image": images[key],
                "index": group.index,
            }
            rows += [row] * group_size
        # After the images of this window were opened: a dataset is read by one thread at a time.
        self._begin_window_after(step)
        self.vllm_generation.serve(groups)
        with self.collector.times("old_logprobs", step):
            batch = super()._generate_and_score_completions(rows)
        self.vllm_generation.serve(None)
        self.run_log.note(importance_ratios(batch))
        self._optimise_since = time.perf_counter()
        return batch

    def _next_window(self, indices: list[int], step: int) -> Window:
        """The window sampled ahead for this step, or one that is collected now; weights are synchronised."""
        window = None
        if self.ahead.step is not None:
            with self.collector.times("wait", step), self._stoppable(step):
                window = self.ahead.take(indices, step)
        with self.collector.times("sync", step), self._stoppable(step):
            self.synchronise()
        if window is None:
            with self._stoppable(step):
                window = self.collector.collect(indices, step)
        return window

    def _begin_window_after(self, step: int) -> None:
        """Begin to collect the window after that of `step`, if windows may be ahead and there is one."""
        steps = window_steps(self._grpo)
        if not self._staleness or step + steps > self.state.max_steps:
            return
        indices = window_indices(
            seed=self.args.seed,
            window=(step - 1) // steps + 1,
            samples=len(self._rows),
            prompts=self._grpo.generation_batch_size // self._group_size,
            shuffle=bool(self._grpo.shuffle_dataset),
        )
        self.ahead.start(indices, step + steps)

    @contextmanager
    def _stoppable(self, step: int) -> Iterator[None]:
        """Within it a signal stops the run at once, and lost machines end it, after a checkpoint."""
        try:
            with self._stop.at_once():
                yield
        except (RunStopped, InfrastructureError):
            newest = newest_checkpoint(Path(str(self.args.output_dir)))
            if step_of(newest) != step - 1:
                self._save_checkpoint(self.model, trial=None)
            raise

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
        """Write beside it what else a checkpoint of this trainer needs: the window that was sampled ahead."""
        if self.accelerator.is_main_process:
            self.ahead.save(Path(output_dir))
        super()._save_rng_state(output_dir)

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
            self.accelerator, model, input_ids, attention_mask, logits_to_keep, *args, **options
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
        sampler: Sampler = self.collector.sampler
        if version == sampler.version:
            return
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PeftModel):
            sampler.sync_weights(named_weights(model), version)
            self.sampler_version = sampler.version
            return
        adapters = Path(self._adapters.name)
        folder = adapters / f"version-{version}"
        with full_disk_told(folder):
            model.save_pretrained(str(folder), save_embedding_layers=False)
        sampler.sync_adapter(folder, version)
        self.sampler_version = sampler.version
        # The engine may still read the folder of the version it serves, never an older one.
        for old in adapters.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass TRL's figures on, and write them with ours into the run folder."""
        self._optimised(self.state.global_step)
        own = self._metrics["train"]
        averaged = {key: sum(values) / len(values) for key, values in own.items() if values}
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
        """Wait for a window in flight, and remove the adapters written for the sampler."""
        self.ahead.wait()
        self._adapters.cleanup()


class _EpochRepeatSampler(RepeatSampler):
    """Shuffles by (seed, epoch); accelerate's loader calls `set_epoch`."""

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(int(self.seed or 0) + epoch)
