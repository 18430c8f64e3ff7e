"""Alarms of a training run: what tends to go wrong with GRPO, seen in the lines of `metrics.jsonl` alone.

Each alarm is one sentence: what was seen and since when, what it usually means, and which key to turn. It
starts at most once in a run. Since the lines decide everything, a resumed run has the alarms of an unbroken
one, and a run of an earlier version can be looked through afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from prompter.runs.config import StrictModel

KIND = "alarm/"
"""Kinds of the lines of `metrics.jsonl` that are alarms begin so; the alarm's name follows."""

END = "end"
"""Kind of the line that says that a run ended early, by which alarm, and which step's policy it has."""

Name = Literal["refusals", "parse-failures", "spread", "drift", "gap", "worse"]

COLLAPSED: tuple[Name, ...] = ("refusals", "parse-failures", "spread")
"""Alarms after which a run has little to learn from."""


class AlarmsConfig(StrictModel):
    """What is watched while a run trains. An alarm is one sentence: printed when it starts, written to
    `metrics.jsonl`, shown in the report."""

    stop: Literal["never", "collapse", "worse"] = "never"
    """When training ends early; the result is then the policy of the best evaluation. `collapse`: when an
    alarm about refusals, parse failures or spread starts. `worse`: also when the held-out gIoU stays below
    its best, which needs `eval.every_steps`."""

    windows: int = Field(default=5, ge=1)
    """Windows of rollouts that a share is averaged over before it is compared with anything."""

    rise: float = Field(default=0.25, gt=0, le=1)
    """How far above its lowest average a share may rise: of the questions with a target that are answered
    with nothing, and of the answers that cannot be read."""

    spread: float = Field(default=0.1, ge=0, le=1)
    """Share of groups with spread below which there is little to learn from."""

    drift: float | None = Field(default=1.0, gt=0)
    """Distance from the first policy above which it is called far, in nats a token: the mean of
    log p(now) - log p(first) over sampled tokens, which estimates the KL divergence. Measured on the first
    prompt of each window, where adapters are trained; null does not measure it."""

    worse_points: int = Field(default=2, ge=1)
    """Evaluations in a row that have to be below the best one, each by a paired 95 % interval that leaves out
    0, before the held-out gIoU is said to fall."""


@dataclass(frozen=True)
class Alarm:
    """One alarm.

    Args:
        name: which.
        step: optimiser step of the line it started with.
        held_out: whether that line is an evaluation; else it is a training step.
        sentence: what to tell the user.
    """

    name: Name
    step: int
    held_out: bool
    sentence: str


class Watch:
    """Looks at the lines of a run one by one, in their order, and remembers what they showed.

    Args:
        config: the run's section `alarms`.

    Attributes:
        alarms: those that started, in their order.
        best: step and gIoU of the best evaluation of the policy so far; None before the first.
    """

    _NAMED: ClassVar[Mapping[str, Name]] = {"refusals": "refusals", "parse_failure_rate": "parse-failures"}

    def __init__(self, config: AlarmsConfig) -> None:
        self.config = config
        self.alarms: list[Alarm] = []
        self.best: tuple[int, float] | None = None
        self._recent: dict[str, deque[float]] = {}
        self._lowest: dict[str, tuple[float, int]] = {}
        self._rewards: list[tuple[int, float]] = []
        self._below = 0

    def see(self, line: Mapping[str, Any]) -> list[Alarm]:
        """Look at one line of `metrics.jsonl`; return the alarms that start with it."""
        known = len(self.alarms)
        if line["kind"] == "train":
            self._see_window(line)
        elif line["kind"] == "eval":
            self._see_evaluation(line)
        return self.alarms[known:]

    def see_all(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Look at the lines of a run that is resumed or over, in the order an unbroken one logs them."""
        for line in sorted(lines, key=lambda one: (one["step"], one["kind"] != "eval")):
            self.see(line)

    def ending(self, step: int) -> Alarm | None:
        """The alarm that ends the run after optimiser step `step`, at which a window ends; None goes on.

        A step is logged after it was decided whether to go on, an evaluation before.
        """
        ends: tuple[Name, ...] = ()
        if self.config.stop != "never":
            ends = COLLAPSED if self.config.stop == "collapse" else (*COLLAPSED, "worse")
        for alarm in self.alarms:
            if alarm.name in ends and (alarm.step < step or (alarm.held_out and alarm.step == step)):
                return alarm
        return None

    def _see_window(self, line: Mapping[str, Any]) -> None:
        step = line["step"]
        if isinstance(line.get("reward"), float):
            self._rewards.append((step, line["reward"]))
        for key in self._NAMED:
            self._see_share(key, line.get(key), step)
        alike = self._mean("frac_reward_zero_std", line.get("frac_reward_zero_std"))
        if alike is not None and 1 - alike < self.config.spread:
            reward, entropy = line.get("reward"), line.get("entropy")
            seen = "" if reward is None else f" (mean reward {reward:.2f}"
            seen += f", entropy {entropy:.2f})" if seen and entropy is not None else ")" if seen else ""
            self._start(
                "spread",
                step,
                f"only {_percent(1 - alike)} of the groups hold answers of different reward{seen}: the "
                "policy answers alike whatever is drawn, or every question is solved or hopeless, and "
                "nothing is learned; raise trainer.temperature or trainer.num_generations, ask other "
                "questions, or end",
            )
        # With all weights trained there are no adapters to switch off, but with a KL term TRL logs `kl`.
        limit, drift = self.config.drift, self._mean("drift", line.get("drift", line.get("kl")))
        if limit is not None and drift is not None and drift > limit:
            self._start(
                "drift",
                step,
                f"the policy is {drift:.2f} nats a token away from the one training began with: it has left "
                "what it could do before, often towards one form of answer; lower trainer.learning_rate, or "
                "raise trainer.beta",
            )

    def _see_share(self, key: str, value: Any, step: int) -> None:
        """A share that should not rise."""
        mean = self._mean(key, value)
        if mean is None:
            return
        lowest, since = self._lowest.get(key, (mean, step))
        if mean <= lowest:
            self._lowest[key] = (mean, step)
        elif mean - lowest >= self.config.rise:
            rose = f"from {_percent(lowest)} (until step {since}) to {_percent(mean)}"
            said = {
                "refusals": f"questions with a target that are answered with nothing rose {rose}: declining "
                "pays more than looking; see whether a reward pays the empty answer too well (rewards), ask "
                "fewer questions without a target, or lower trainer.learning_rate",
                "parse_failure_rate": f"answers that cannot be read rose {rose}: the policy loses the form "
                "of an answer; lower trainer.learning_rate or trainer.temperature, or see whether answers "
                "are cut off (policy.settings.max_new_tokens)",
            }
            self._start(self._NAMED[key], step, said[key])

    def _mean(self, key: str, value: Any) -> float | None:
        """Mean of the last values of a key, this one included; None while there are too few of them."""
        if not isinstance(value, int | float):
            return None
        recent = self._recent.setdefault(key, deque(maxlen=self.config.windows))
        recent.append(float(value))
        return sum(recent) / len(recent) if len(recent) == self.config.windows else None

    def _see_evaluation(self, line: Mapping[str, Any]) -> None:
        step, now = line["step"], line.get("gIoU")
        if now is None:
            return
        if self.best is None or now > self.best[1]:
            self.best, self._below = (step, now), 0
            return
        found = line.get("against_best")
        surely = found is not None and found["high"] is not None and found["high"] < 0
        self._below = self._below + 1 if surely else 0
        if not surely or found is None:
            return
        best, gIoU = self.best
        fell = (
            f"{100 * gIoU:.1f} at step {best} to {100 * now:.1f}, difference {_points(found['difference'])}"
        )
        fell += f" [{_points(found['low'])}, {_points(found['high'])}]"
        rewards = self._reward_until(best, step), self._reward_until(step, step)
        if rewards[0] is not None and rewards[1] is not None and rewards[1] > rewards[0]:
            self._start(
                "gap",
                step,
                f"the reward in training rose from {rewards[0]:.3f} to {rewards[1]:.3f} while the held-out "
                f"gIoU fell from {fell}: the policy learns what pays on the training questions and does not "
                "carry over; give more questions or images (dataset), fewer trainer.max_steps, or a lower "
                "trainer.learning_rate",
                held_out=True,
            )
        if self._below >= self.config.worse_points:
            count = self._below
            seen = "at the last evaluation" if count == 1 else f"at {count} evaluations in a row"
            self._start(
                "worse",
                step,
                f"the held-out gIoU is surely below its best {seen}: from {fell}; training does harm by now: "
                "take the policy of the best evaluation (alarms.stop worse does), lower "
                "trainer.learning_rate, or give more questions",
                held_out=True,
            )

    def _reward_until(self, step: int, now: int) -> float | None:
        """Mean reward of the last windows before the policy of this step; of the first ones for step 0.

        Of windows that began before step `now`, whose evaluation may be logged before or after its own.
        """
        windows, known = self.config.windows, [one for one in self._rewards if one[0] < now]
        before = [reward for at, reward in known if at < step][-windows:]
        chosen = before or [reward for _, reward in known[:windows]]
        return sum(chosen) / len(chosen) if chosen else None

    def _start(self, name: Name, step: int, says: str, *, held_out: bool = False) -> None:
        if all(alarm.name != name for alarm in self.alarms):
            self.alarms.append(Alarm(name, step, held_out, f"since step {step}, {says}."))


def alarm_lines(lines: Sequence[Mapping[str, Any]], config: AlarmsConfig) -> list[str]:
    """What a run's alarms said, and how it ended if early, a sentence each.

    Args:
        lines: of its `metrics.jsonl`; of a run of any version.
        config: its section `alarms`.
    """
    watch = Watch(config)
    watch.see_all(lines)
    said = [f"alarm ({alarm.name}): {alarm.sentence}" for alarm in watch.alarms]
    last = max((one["step"] for one in lines if one["kind"] == "train"), default=0)
    # A run that ended early may have been taken further since.
    ends = [one for one in lines if one["kind"] == END and one["step"] >= last]
    return [*said, *(ending_line(one, one["step"]) for one in ends)]


def ending_line(figures: Mapping[str, Any], step: int) -> str:
    """How a run ended early after a step, as a sentence; `figures` are those of its line of kind `END`."""
    result = f"the policy of step {figures['result']}" if figures["result"] else "the policy it began with"
    return (
        f"ended early at step {step} of {figures['planned']}, by the alarm {figures['by']}: the result is "
        f"{result}, the best of the evaluations; it was chosen on the held-out queries, so that their "
        "figure is a little too good."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
