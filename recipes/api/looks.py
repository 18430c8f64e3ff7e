"""Several looks at a question of a user's own: how they are asked for, and how one answer comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from envs.executors.base import Executor
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from envs.sample import Sample
from eval.answerers.base import Answerer, LookSettings, able_to_look
from eval.looks.calibration import Calibration, CalibrationFile
from eval.looks.combining import Combination, calibration_for, combined, fitting_calibration
from eval.looks.rules import RULES, USES_TRUTH
from prompter.errors import UserError, did_you_mean
from prompter.runs.run_folder import rollouts_name

_DRAWN = tuple(field.name for field in fields(LookSettings))
_COMBINED = {"combine": "rule", "confidence": "source", "calibration": "calibration"}


@dataclass(frozen=True)
class Looks:
    """How often a question is looked at, and what is made of it (docs/looks.md).

    Args:
        settings: how the looks are drawn.
        how: how they are combined; a rule that looks at the target is refused, for there is none.
        calibrations: of confidences, by segmenter; None leaves them raw.

    Raises:
        UserError: if the rule, or what the confidence is read from, is not known; or the rule needs targets.
    """

    settings: LookSettings
    how: Combination
    calibrations: CalibrationFile | None = None

    def __post_init__(self) -> None:
        self.how.check()
        if self.how.rule in USES_TRUTH:
            raise UserError(
                f"The rule {self.how.rule} looks at the target, and a question of your own has none; "
                f"there are {', '.join(name for name in RULES if name not in USES_TRUTH)}."
            )

    @classmethod
    def of(cls, settings: LookSettings, how: Combination) -> Looks:
        """Looks with the calibration that the combination names, if it names one.

        Raises:
            UserError: as the class, or if the calibration is missing or was fitted for something else.
        """
        return cls(settings, how, fitting_calibration(how, settings.samples))

    @classmethod
    def asked(cls, given: int | Mapping[str, Any]) -> Looks:
        """What a user asked for: a number of samples, or settings by name.

        Args:
            given: `samples`, and maybe `shift`, `temperature`, `top_p`, `seed`, `combine`, `confidence`,
                `calibration`; see `prompter eval --samples`.

        Raises:
            UserError: if a name is not known, a value is none of its kind or out of range, or the calibration
                is missing or was fitted for something else.
        """
        named = dict(given) if isinstance(given, Mapping) else {"samples": given}
        for name in named:
            if name not in (*_DRAWN, *_COMBINED):
                raise UserError(f"looks has no {name!r}.{did_you_mean(name, (*_DRAWN, *_COMBINED))}")
        drawn = {name: value for name, value in named.items() if name in _DRAWN}
        for name, value in drawn.items():
            whole = name in ("samples", "seed")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise UserError(
                    f"looks: {name} should be a {'whole number' if whole else 'number'}, but is {value!r}."
                )
        if "samples" not in drawn:
            raise UserError('looks needs the number of samples: {"samples": 16}.')
        settings = LookSettings.asked(drawn, lambda name: f"looks: {name}")
        told: dict[str, Any] = {
            field: str(named[name]) for name, field in _COMBINED.items() if named.get(name) is not None
        }
        how = Combination(samples=settings.samples, **told)
        return cls.of(settings, how)

    def calibration_of(self, name: str) -> Calibration | None:
        """The calibration of a segmenter, by its name; None leaves confidences raw.

        Raises:
            UserError: if there is one, and for other segmenters only.
        """
        if self.calibrations is None:
            return None
        return calibration_for(self.calibrations, self.how, rollouts_name(name))

    def answer(
        self, samples: Sequence[Sample], answerer: Answerer, executor: Executor | None, name: str
    ) -> list[Rollout]:
        """Look at questions, segment every look, and combine; one rollout each, with `confidence`.

        Args:
            samples: the questions.
            answerer: who is asked.
            executor: what segments; None takes the masks that answers bring along.
            name: of the executor.

        Raises:
            UserError: if the answerer does not sample, or the calibration knows no such segmenter.
        """
        calibration = self.calibration_of(name)
        rule = RULES.resolve(self.how.rule)
        found = []
        asked = able_to_look(answerer, "looks").look(samples, self.settings)
        for sample, answers in zip(samples, asked.answers, strict=True):
            # One question at a time: each look keeps masks of the image's size.
            looks = make_rollouts(
                [sample] * len(answers),
                answers,
                executor,
                name=name,
                keep_instances=True,
                keep_stability=True,
            )
            found.append(with_objects(combined(looks, rule, self.how.source, calibration)))
        return found


def with_objects(rollout: Rollout) -> Rollout:
    """A rollout in which a mask that is no single look's (`vote`) is one object, for want of better."""
    mask = rollout.prediction_mask
    if rollout.predicted_instances or rollout.prediction is None or mask is None or not mask.any():
        return rollout
    return replace(rollout, predicted_instances=(rollout.prediction,), predicted_ious=())
