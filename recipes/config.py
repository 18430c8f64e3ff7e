"""The training config: every section, its keys and their defaults.

What takes precedence, weakest first: the defaults below; the YAML file; `--dotted.key value` flags.
Unknown keys are refused. `trainer:` holds TRL's own `GRPOConfig` names, unchanged, on top of
`TRAINER_DEFAULTS`; they are checked when training starts, because the check has to import TRL.
Paths are relative to the folder the command is started in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError, did_you_mean
from prompter.policy import PolicySettings
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.config_keys import Key, Section, config_sections, yaml_value
from prompter.runs.values import dump_yaml
from prompter.sampling.config import SamplerConfig
from recipes.config_learning import AverageConfig, GroupConfig, OrderConfig
from recipes.config_sets import DatasetConfig, EvalConfig, OtherSet
from recipes.shipped import config_path
from recipes.training.alarms import AlarmsConfig

if TYPE_CHECKING:
    from envs.sample import SampleSource

TRAINER_REASONS: Mapping[str, tuple[Any, str]] = {
    "beta": (0.0, "No KL term, hence no reference model (DAPO, Dr. GRPO)."),
    "epsilon": (0.2, "The lower clip of the importance ratio, beside the higher one below."),
    "epsilon_high": (0.28, "Clip-higher keeps exploration (DAPO)."),
    "loss_type": ("dapo", "Every token of a step counts alike, whatever its completion's length."),
    "scale_rewards": (
        "none",
        "Dividing by the group's spread turns IoU 0.90 against 0.91 into a difference as large as that of "
        "0 against 1 (Dr. GRPO).",
    ),
    "num_generations": (8, "Completions per prompt."),
    "temperature": (1.0, "Sampling from anything but the policy itself biases the importance ratio."),
    "top_p": (1.0, "As for `temperature`."),
    "top_k": (0, "As for `temperature`; 0 is all."),
    "vllm_importance_sampling_correction": (True, "Corrects the difference between sampler and trainer."),
    "vllm_importance_sampling_mode": ("token_truncate", "Milder than dropping long completions whole."),
    "vllm_importance_sampling_clip_max": (2.0, "Where that ratio is truncated."),
    "save_total_limit": (
        3,
        "So many checkpoints stay, the newest ones; null keeps all. Only the newest is resumed.",
    ),
    "log_multimodal": (False, "TRL would gather every image of a step on all ranks."),
    "report_to": (
        "none",
        "The run folder is the record; `tensorboard`, `wandb` and `trackio`, or a list of them, mirror every "
        "figure and a few pictures.",
    ),
}
"""Where this project departs from TRL's defaults, on published evidence or for cost: value and reason."""

TRAINER_DEFAULTS: Mapping[str, Any] = {key: value for key, (value, _) in TRAINER_REASONS.items()}
"""What `trainer:` stands on."""

_SET_ELSEWHERE = {
    "output_dir": "run_dir",
    "seed": "seed",
    "data_seed": "seed",
    "use_vllm": "sampler.backend",
    "vllm_mode": "sampler.backend",
    "vllm_max_model_length": "sampler.max_model_len",
    "vllm_gpu_memory_utilization": "sampler.gpu_memory_utilization",
    "vllm_tensor_parallel_size": "sampler.tensor_parallel_size",
    "reward_weights": "rewards",
    "resume_from_checkpoint": "the flag --resume",
    "chat_template_kwargs": "policy.settings.template_options",
}


class LoraConfig(StrictModel):
    """Low-rank adapters (PEFT); what is trained, and what travels to the samplers each step."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapters."""

    alpha: int = Field(default=32, gt=0)
    """Scale of the adapters: their update is multiplied by alpha / r."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapters' input. Not 0 means that sampler and trainer disagree."""

    target_modules: str | list[str] | None = None
    """Which modules get adapters, as in PEFT: a regular expression over their names, or a list of their ends;
    null takes the language model's attention and MLP projections. A vLLM sampler adapts linear layers of the
    language model alone: with one, anything else is refused."""

    def for_family(self, family: str, **more: Any) -> Any:
        """PEFT's own config of these adapters, for a policy of a family; `more` are further fields of it."""
        import peft

        from prompter.families import lora_targets

        return peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules or lora_targets(family),
            **more,
        )


class PolicyConfig(StrictModel):
    """The vision-language model that is trained."""

    renamed: ClassVar[Mapping[str, str]] = {
        name: f"settings.{name}"
        for name in ("action_space", "image", "instructions", "think", "question", "max_new_tokens")
    }

    model: str
    """Hub id (`Qwen/Qwen2.5-VL-3B-Instruct`) or local folder."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the trained copy's weights; `auto` is what the checkpoint was saved in."""

    lora: LoraConfig | None = LoraConfig()
    """Adapters; null trains all weights, which then go to the sampler's engines before every window."""

    quantise: Literal["nf4"] | None = None
    """QLoRA: `nf4` keeps the frozen weights of the language model's linear layers in 4 bits, and the adapters
    are trained on those. Needs the extra `qlora`. vLLM samples the weights as they are saved, so that sampler
    and trainer differ, which `sampling/sampling_logp_difference` shows."""

    settings: PolicySettings = PolicySettings()
    """How it is asked; what is left out stays as the checkpoint was trained."""

    @model_validator(mode="after")
    def _check_quantise(self) -> PolicyConfig:
        if self.quantise is not None and self.lora is None:
            raise ValueError(
                f"quantise {self.quantise} freezes the weights and trains adapters on them, but lora is null"
            )
        return self

    @field_serializer("settings")
    def _given_settings(self, settings: PolicySettings) -> dict[str, Any]:
        """Only what was given, so that a config that is read back leaves the rest to the checkpoint, too."""
        return settings.model_dump(mode="json", exclude_unset=True)

    def setting_overrides(self) -> dict[str, Any]:
        """The settings that are given, for `prompter.checkpoint.load_policy(…, overrides=…)`."""
        return self._given_settings(self.settings)


class RayConfig(StrictModel):
    """The Ray that pools of actors run on."""

    address: str | None = None
    """Address of a cluster to join; null starts Ray on this machine."""

    num_cpus: int | None = Field(default=None, ge=1)
    """CPU cores that a Ray started here may hand out; null is all."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    """Variables set in the processes of all actors, on every node, such as HF_HOME or NCCL_SOCKET_IFNAME. No
    keys or passwords: those belong into the environment of the nodes."""

    def ensure(self) -> None:
        """Join or start that Ray, unless this process has one."""
        from prompter.runs.ray_runtime import ensure_ray

        ensure_ray(self.address, self.num_cpus, self.env_vars)


class RanksConfig(StrictModel):
    """The processes that train together. One is the command itself; several are started by Ray Train, or by
    torchrun or accelerate launch, whose number then counts. The first one also samples and evaluates."""

    count: int = Field(default=1, ge=1)
    """Number of ranks. Each takes `trainer.per_device_train_batch_size` rows at a time, so that a step of the
    same size takes as many times less."""

    num_cpus: float = Field(default=1, ge=0)
    """CPU cores that Ray reserves per rank, and threads of a rank that it starts (at least 1)."""

    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves per rank."""

    backend: Literal["gloo", "nccl"] | None = None
    """How ranks exchange gradients: null takes NCCL between GPUs and gloo between CPUs."""

    timeout_seconds: float = Field(default=7200, gt=0)
    """Seconds that a rank waits for another one: as long as a window is sampled, or an evaluation takes."""


class OverlapConfig(StrictModel):
    """What goes on beside something else."""

    prefetch: bool = True
    """Encode a window's images in the segmenters while the engines sample it. Changes no result. Only where
    sampling leaves this process idle: `sampler.backend` `ray`."""

    staleness: Literal[0, 1] = 0
    """Windows of rollouts that sampling may be ahead of training. 0: a window is sampled from the policy that
    is trained on it. 1: the next window is sampled and scored while the present one is trained on, from a
    policy one window older; the loss corrects for that by importance sampling. Only for `sampler.backend`
    `ray`."""


class TrainConfig(StrictModel):
    """Everything `prompter train` needs; written resolved to `run_dir`/config.yaml, which re-runs it."""

    run_dir: str
    """Folder of this run; must be new or empty."""

    seed: int = Field(default=0, ge=0)
    """Seed of data order, sampling and initial adapters."""

    grace_seconds: float | None = Field(default=None, ge=0)
    """How long after SIGTERM or SIGINT a window of rollouts that is trained on may still be finished, before
    the steps since the last checkpoint are given up; null finishes it. Give less than your scheduler's time
    between SIGTERM and SIGKILL where `num_iterations` and `steps_per_generation` make windows long."""

    policy: PolicyConfig
    dataset: DatasetConfig
    eval: EvalConfig = EvalConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    executor: ExecutorConfig | list[ExecutorConfig] = ExecutorConfig()
    """The frozen segmenter, or a list of them."""

    sampler: SamplerConfig = SamplerConfig()
    ray: RayConfig = RayConfig()
    ranks: RanksConfig = RanksConfig()
    rewards: dict[str, float] = Field(default_factory=lambda: {"mask_iou": 1.0}, min_length=1)
    """Weight of each reward, by its name in `rewards.registry`, or "module:function" for one of your own."""

    group: GroupConfig = GroupConfig()
    order: OrderConfig = OrderConfig()
    average: AverageConfig = AverageConfig()
    overlap: OverlapConfig = OverlapConfig()
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Fields of TRL's `GRPOConfig`, by TRL's own names."""

    @property
    def held_out(self) -> DatasetConfig:
        """The held-out set in the terms of `dataset`, from which comes what `eval` leaves out."""
        return DatasetConfig(
            name=self.eval.dataset or self.dataset.name,
            split=self.eval.split,
            samples=self.eval.samples,
            options=self.dataset.options if self.eval.options is None else self.eval.options,
        )

    @property
    def other_sets(self) -> dict[str, DatasetConfig]:
        """The sets of `eval.others` by name, in the terms of `dataset`."""
        found = {}
        for name, given in self.eval.others.items():
            other = OtherSet.model_validate(given)
            same = other.dataset in (None, self.dataset.name)
            options = other.options if other.options is not None else self.dataset.options if same else {}
            found[name] = DatasetConfig(
                name=other.dataset or self.dataset.name,
                split=other.split,
                samples=other.samples,
                options=options,
            )
        return found

    def open_held_out(self) -> SampleSource:
        """Open the held-out set, as `eval` says; what it leaves out is as in `dataset`.

        Raises:
            UserError: if it cannot be opened.
        """
        return self.held_out.open()

    @field_validator("trainer")
    @classmethod
    def _complete_trainer(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in _SET_ELSEWHERE:
                raise ValueError(f"{key!r} is set elsewhere in this project: use {_SET_ELSEWHERE[key]}")
        return {**TRAINER_DEFAULTS, **value}


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training config.

    Args:
        path: YAML file, or the name of a config that comes with the package (`recipes.shipped`).
        overrides: "dotted.key=value" texts, as `recipes.cli.split_overrides` makes them.

    Raises:
        UserError: if the file cannot be read, a key is unknown, or a value is not what its key takes.
    """
    return load_config_model(TrainConfig, config_path(path), overrides)


def dump_config(config: TrainConfig) -> str:
    """Write a config with every key as YAML text; `load_config` of it gives an equal config."""
    return dump_yaml(config.model_dump(mode="json"))


def train_sections(config: TrainConfig | None = None) -> list[Section]:
    """Every key of a training config for help and documentation, with the values of `config` as defaults.

    Under `trainer` are those that this project or `config` sets; the others have TRL's own defaults.
    """
    top, *sections = config_sections(TrainConfig, default=config)
    values = TRAINER_DEFAULTS if config is None else config.trainer
    keys = [
        Key(f"trainer.{key}", "", yaml_value(value), reason if value == usual else "")
        for key, value in values.items()
        for usual, reason in [TRAINER_REASONS.get(key, (value, ""))]
    ]
    elsewhere = ", ".join(f"`{key}` ({use})" for key, use in _SET_ELSEWHERE.items())
    says = (
        "All fields of TRL's `GRPOConfig`, by TRL's own names; these have another default here. "
        f"Some belong to other keys and are refused: {elsewhere}."
    )
    without_trainer = tuple(key for key in top.keys if key.name != "trainer")
    return [replace(top, keys=without_trainer), *sections, Section("trainer", says, tuple(keys))]


def check_trainer_keys(config: TrainConfig) -> None:
    """Refuse keys under `trainer:` that TRL's `GRPOConfig` does not have. Imports TRL, and so torch.

    Raises:
        UserError: naming the first unknown key, with the nearest known one.
    """
    from dataclasses import fields

    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig) if field.init}
    for key in config.trainer:
        if key not in known:
            hint = did_you_mean(key, known, listed=False)  # not all 190 names when nothing is near
            raise UserError(f"GRPOConfig of TRL has no {key!r}, given as trainer.{key}.{hint}")
