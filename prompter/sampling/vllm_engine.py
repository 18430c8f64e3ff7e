"""One vLLM engine in this process: fast sampling, with LoRA adapters for the policy's newer versions.

vLLM is imported when the first engine is built, after the environment it reads at import is set.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prompter.errors import UserError
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.cpu_limits import cpu_options
from prompter.sampling.image_tokens import collapse_pads
from prompter.sampling.token_sampler import TokenPrompt, TokenSampler
from prompter.sampling.weights import check_takes_weights
from prompter.types import Completion

if TYPE_CHECKING:
    import torch

    from prompter.checkpoint import Checkpoint

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # on an error it logs every prompt's pixels; the error itself is raised
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core runs in this process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines must not be bound to the same first cores
    "TOKENIZERS_PARALLELISM": "false",
}
_BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""Environment variable by which vLLM computes each request as if it were alone."""
_ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 512)
"""Largest ranks that vLLM can be built for."""
_TEXT_TOKENS = 1024
"""Room for system prompt and query when the context length is not given."""
_CPU_STEP_TOKENS = 2048
"""Prompt tokens that a CPU engine takes on in one step; more in one step is not faster there."""
_IMAGE_CACHE_GIB = 0.25
"""Bound of the cache of preprocessed images: unbounded growth has eaten hosts' memory."""


class Ticket(NamedTuple):
    """Prompts that an engine has taken on together.

    Args:
        names: of the engine's requests.
        prompt_lengths: tokens of each prompt, image tokens included.
        copies: how often each of the engine's completions counts.
        logprobs: whether log-probabilities are asked for.
    """

    names: list[str]
    prompt_lengths: list[int]
    copies: int
    logprobs: bool


class VllmSampler(TokenSampler):
    """A vLLM engine that samples a policy.

    Args:
        policy: what to sample from; newer versions come as adapters or as weights.
        config: see `SamplerConfig`.
        lora_rank: rank of the adapters that `sync_adapter` will be given; None if it never is.

    On a CPU the sampled distribution agrees with transformers' to float32's rounding, and the same
    seed gives the same completions as `HuggingFaceSampler`.
    """

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig | None = None, *, lora_rank: int | None = None
    ) -> None:
        super().__init__(policy.processor)
        self.config = config or SamplerConfig(backend="vllm")
        self._lora_rank = engine_rank(lora_rank)
        self._adapter: Any = None
        self._whole = True  # False from the start of an exchange of weights to its end
        self._outputs: dict[str, Any] = {}  # finished ones that nobody has collected yet, by name
        self._engine = self._build(policy)

    def _build(self, policy: Checkpoint) -> Any:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import torch

        self._on_cpu = not torch.cuda.is_available()
        if self._on_cpu and os.environ.get(_BATCH_INVARIANT, "0") not in ("", "0"):
            raise UserError(
                f"{_BATCH_INVARIANT} puts kernels for GPUs in place of the matrix products, and there is no "
                f"GPU here: unset it."
            )
        set_num_threads = torch.set_num_threads
        if self.config.threads is not None:
            set_num_threads(self.config.threads)
        from transformers import AutoConfig

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about torch names that vLLM still uses
            from vllm import LLM

        on_cpu = self._on_cpu
        context = self.config.max_model_len or default_context(policy)
        options: dict[str, Any] = {
            "model": policy.source,
            "max_model_len": context,
            "max_num_seqs": self.config.max_num_seqs,
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            # The engine's own processor must leave images alone exactly as the trainer's does.
            "mm_processor_kwargs": {"size": dict(policy.processor.image_processor.size)},
            "mm_processor_cache_gb": _IMAGE_CACHE_GIB,
            "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
            "seed": 0,
            "use_tqdm_on_load": False,
            "tensor_parallel_size": self.config.tensor_parallel_size,
        }
        if on_cpu:
            options |= {
                **cpu_options(AutoConfig.from_pretrained(policy.source), self.config.dtype, policy.source),
                "enforce_eager": True,
                # Completions of a group share their prompt in whole blocks; the default of 128 tokens is
                # longer than many a prompt.
                "block_size": 32,
                "kv_cache_memory_bytes": int(self.config.kv_cache_gib * 2**30),
                "skip_mm_profiling": True,
                # A prompt whose prefill is split over two steps crashes vLLM on a CPU when it has a seed
                # ("CPU Generator does not use offset").
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(_CPU_STEP_TOKENS, context),
            }
        else:
            options |= {
                "dtype": self.config.dtype,
                "enforce_eager": self.config.enforce_eager,
                "gpu_memory_utilization": self.config.gpu_memory_utilization,
            }
        if self.config.tensor_parallel_size > 1:
            options["distributed_executor_backend"] = "mp"
        if self._lora_rank is not None:
            options |= {"enable_lora": True, "max_lora_rank": self._lora_rank, "max_loras": 1}
        try:
            with _own_configurations():
                if not (on_cpu and self._lora_rank is not None):
                    return LLM(**options)
                from prompter.sampling.single_adapter import one_adapter_for_all

                with one_adapter_for_all():
                    return LLM(**options)
        finally:
            # vLLM's CPU worker replaces this function by one that refuses; the trainer needs it.
            torch.set_num_threads = set_num_threads

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Sample from the LoRA adapter saved in folder `adapter` from now on; set `version`.

        The folder must stay until the next call: the engine reads it when it next samples.

        Raises:
            UserError: if the engine was built without adapters, or for a smaller rank.
        """
        from vllm.lora.request import LoRARequest

        check_adapter_rank(adapter, self._lora_rank)
        # A new name and number per version: the prefix cache and the adapter cache are keyed by them.
        # Numbers must be positive.
        self._adapter = LoRARequest(f"version_{version}", version + 1, str(adapter))
        self.version = version

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Sample from these weights from now on; set `version`. See `Sampler.sync_weights`.

        Raises:
            UserError: if an engine of the config takes none, or vLLM does not take these.
        """
        check_takes_weights(self.config)
        self._whole = False
        from prompter.sampling.reload import reload_weights

        reload_weights(self._engine, weights)
        # Both caches were filled by the weights before. The worker has dropped its encoded images; a
        # scheduler that does not know fails at the next request that shows one of them.
        self.forget()
        self._whole = True
        self._adapter = None
        self.version = version

    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        ticket = self.enqueue(prompts, settings, logprobs)
        while (groups := self.collect(ticket)) is None:
            self.step()
        return groups

    def enqueue(self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool) -> Ticket:
        """Take prompts on, beside those that are in the engine already; `step` samples all of them."""
        from vllm import SamplingParams

        if not self._whole:
            raise RuntimeError(
                "an exchange of this engine's weights failed halfway: it belongs to no version of the policy"
            )
        inputs = [
            {
                "prompt_token_ids": collapse_pads(prompt.token_ids, self.pad_id)[0],
                "multi_modal_data": {"image": prompt.image},
            }
            for prompt in prompts
        ]
        # Greedy completions of a prompt are all alike, and vLLM refuses to make more than one.
        copies = settings.n if settings.temperature == 0 else 1
        parameters = [
            SamplingParams(
                n=settings.n // copies,
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                seed=prompt.seed,
                logprobs=0 if logprobs else None,
                flat_logprobs=True,
                detokenize=False,
                logit_bias=dict.fromkeys(self.suppressed, -100.0),
            )
            for prompt in prompts
        ]
        names = self._engine.enqueue(inputs, parameters, use_tqdm=False, lora_request=self._adapter)
        # The engine makes a name unique by a suffix, and gives outputs the name without it.
        lengths = [len(prompt.token_ids) for prompt in prompts]
        return Ticket([name.partition("-")[0] for name in names], lengths, copies, logprobs)

    def step(self) -> None:
        """Sample a token of each completion that the engine is at."""
        import torch

        # vLLM compiles a few small functions of its sampler. On a CPU that takes a C++ compiler and longer
        # than it saves.
        with torch.compiler.set_stance("force_eager" if self._on_cpu else "default"):
            outputs = self._engine.llm_engine.step()
        self._outputs.update({output.request_id: output for output in outputs if output.finished})

    def collect(self, ticket: Ticket) -> list[list[Completion]] | None:
        """The groups of prompts that were taken on together, in order; None while one is not finished."""
        if any(name not in self._outputs for name in ticket.names):
            return None
        groups = []
        outputs = [self._outputs.pop(name) for name in ticket.names]
        for number, (output, length) in enumerate(zip(outputs, ticket.prompt_lengths, strict=True)):
            if len(output.prompt_token_ids) != length:
                raise RuntimeError(
                    f"vLLM saw {len(output.prompt_token_ids)} tokens of prompt {number}, but the processor "
                    f"makes {length}: image placeholders were not expanded alike"
                )
            groups.append([self._completion(one, ticket.logprobs) for one in output.outputs] * ticket.copies)
        return groups

    def _completion(self, output: Any, logprobs: bool) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM gave up on a completion: {output.finish_reason}")
        flat = output.logprobs
        token_ids = tuple(output.token_ids)
        return Completion(
            text=self.decode([token_ids])[0],
            token_ids=token_ids,
            logprobs=tuple(flat.logprobs[start] for start in flat.start_indices) if logprobs else None,
            finish_reason=output.finish_reason,
        )

    def forget(self) -> None:
        """Drop the engine's keys and values of earlier prompts, and its encoded and preprocessed images.

        Raises:
            RuntimeError: if vLLM does not let go of them.
        """
        self._engine.reset_mm_cache()
        self._engine.llm_engine.reset_encoder_cache()
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: it still holds blocks of a request")

    def close(self) -> None:
        """Free the engine's memory. Safe to call twice."""
        if self._engine is None:
            return
        self._engine.llm_engine.engine_core.shutdown()
        self._engine = None
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


@contextmanager
def _own_configurations() -> Iterator[None]:
    """Take back what vLLM tells transformers in this block.

    It puts configuration classes of its own in the place of transformers' (Qwen3.5's among them), with which
    transformers cannot build the model: in this process, the trainer could not open a policy afterwards.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    before = dict(CONFIG_MAPPING._extra_content)
    try:
        yield
    finally:
        CONFIG_MAPPING._extra_content = before


def default_context(policy: Checkpoint) -> int:
    """Tokens that suffice for the largest image, `_TEXT_TOKENS` of text and the longest answer."""
    from transformers import AutoConfig

    image_processor = policy.processor.image_processor
    side = int(image_processor.patch_size) * int(image_processor.merge_size)
    image_tokens = int(image_processor.size["longest_edge"]) // side**2
    needed = image_tokens + _TEXT_TOKENS + policy.settings.max_new_tokens
    config = AutoConfig.from_pretrained(policy.source)
    return min(needed, int(config.get_text_config().max_position_embeddings))


def engine_rank(lora_rank: int | None) -> int | None:
    """The rank that an engine is built for so that it takes adapters of `lora_rank`; None for None.

    Raises:
        UserError: if vLLM takes none so large.
    """
    if lora_rank is None:
        return None
    for choice in _ADAPTER_RANKS:
        if lora_rank <= choice:
            return choice
    raise UserError(f"vLLM takes adapters up to rank {_ADAPTER_RANKS[-1]}, but policy.lora.r is {lora_rank}")


def check_adapter_rank(adapter: Path, built_for: int | None) -> None:
    """Raise UserError if the adapter in folder `adapter` has a greater rank than `engine_rank` gave."""
    rank = int(json.loads((adapter / "adapter_config.json").read_text())["r"])
    if built_for is None or rank > built_for:
        raise UserError(
            f"the adapter in {adapter} has rank {rank}, but the engine was started for rank "
            f"{built_for or 0}: pass lora_rank={rank} when opening the sampler"
        )
