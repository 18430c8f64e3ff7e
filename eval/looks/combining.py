"""From looks to ordinary rollouts: one answer per question, by a rule, with its confidence.

What was combined, and how, is kept in `combined.json`; the looks stay as they were sampled, so it can be done
again with another rule, fewer samples or another calibration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.looks.ballot import Ballot
from eval.looks.calibration import Calibration, CalibrationFile
from eval.looks.confidence import DEFAULT_SOURCE, SOURCES, measure
from eval.looks.records import looks_files, read_looks
from eval.looks.rules import DEFAULT_RULE, RULES, Choice, CombineRule
from prompter.errors import UserError, did_you_mean
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import write_lines
from prompter.runs.run_folder import RunFolder, rollouts_name

COMBINED = "combined.json"


@dataclass(frozen=True)
class Combination:
    """How looks become answers.

    Args:
        rule: a name of `RULES`, or "module:function" as the user wrote it.
        samples: how many of the sampled looks are used, the first; None for all.
        source: the raw figure that confidence is read from, of `SOURCES`.
        calibration: file of a calibration; None leaves the confidence raw.
        max_risk: the risk (1 - IoU) that answers should have at most; where to abstain for that is read from
            the calibration. None never abstains.
    """

    rule: str = DEFAULT_RULE
    samples: int | None = None
    source: str = DEFAULT_SOURCE
    calibration: str | None = None
    max_risk: float | None = None

    def check(self) -> None:
        """Refuse what cannot be done whatever the looks are.

        Raises:
            UserError: if the rule or the source is unknown, or a risk is wanted without a calibration.
        """
        RULES.check(self.rule)
        if self.source not in SOURCES:
            raise UserError(
                f"there is no confidence {self.source!r}; there are {', '.join(SOURCES)}."
                f"{did_you_mean(self.source, SOURCES)}"
            )
        if self.samples is not None and self.samples < 1:
            raise UserError(f"At least one sample is combined, but {self.samples} were asked for.")
        if self.max_risk is not None and self.calibration is None:
            raise UserError("--max-risk reads its threshold from a calibration: give --calibration FILE.")
        if self.max_risk is not None and not 0 < self.max_risk < 1:
            raise UserError(f"--max-risk is a mean of 1 - IoU, above 0 and below 1, not {self.max_risk}.")


def answer_of(ballot: Ballot, choice: Choice) -> Rollout:
    """What a rule chose as an ordinary rollout, with its raw confidence.

    It is the chosen look: its completion, prompts and mask. Where the mask is nobody's own (`vote`), it
    stands in the place of the look's; masks of single instances are dropped then, so that instances are told
    apart by the look's boxes, as in a run that keeps no masks of instances.
    """
    chosen = replace(ballot.looks[choice.look], confidence=measure(ballot, choice))
    if choice.mask is None:
        return chosen
    return replace(chosen, prediction=encode_rle(choice.mask), predicted_instances=())


def combined(
    looks: Sequence[Rollout], rule: CombineRule, source: str, calibration: Calibration | None
) -> Rollout:
    """One answer of the looks at a question, with its confidence, calibrated if there is a calibration.

    Args:
        looks: the greedy rollout, then the sampled ones.
        rule: how they are combined.
        source: the raw figure that the calibration is for.
        calibration: of the segmenter that drew them.
    """
    ballot = Ballot(looks)
    answer = answer_of(ballot, rule(ballot))
    if calibration is None:
        return answer
    found = calibration.apply(answer.confidence[source])
    return replace(answer, confidence={**answer.confidence, **found})


def combine_run(folder: RunFolder, how: Combination) -> None:
    """Write the rollouts of a run again from its looks, and `combined.json`. No model is loaded.

    Raises:
        UserError: if the run has no looks, or fewer than are asked for; if the rule is unknown, or looks at
            the target and the set has boxes only; or if the calibration is of another rule, number of
            samples or source, or has none for a segmenter.
    """
    how.check()
    files = looks_files(folder)
    if not files:
        raise UserError(
            f"{folder.path} holds one answer per question; evaluate with --samples into a new folder first."
        )
    rule = RULES.resolve(how.rule)
    available = int((folder.read_config().get("looks") or {}).get("samples", 0))
    samples = how.samples or available
    if samples > available:
        raise UserError(f"{folder.path} holds {available} samples per question, not {samples}.")
    calibrations = fitting_calibration(how, samples)
    for path in files:
        calibration = None if calibrations is None else calibration_for(calibrations, how, path.stem)
        answers = (
            combined(looks[: samples + 1], rule, how.source, calibration) for looks in read_looks(path)
        )
        write_lines(folder.rollouts_dir / path.name, (answer.to_json() for answer in answers))
    told = {**asdict(how), "samples": samples, "thresholds": {}}
    if calibrations is not None and how.max_risk is not None:
        told["thresholds"] = {
            path.stem: _json_threshold(calibrations.executors[path.stem].threshold_for(how.max_risk))
            for path in files
        }
    with atomic_write(folder.path / COMBINED) as handle:
        json.dump(told, handle, indent=1, ensure_ascii=False)
        handle.write("\n")


def _json_threshold(threshold: float | None) -> dict[str, Any]:
    """A threshold as JSON: whether there is one, and from which figure on; null is below all of them."""
    found = threshold is not None
    return {"found": found, "from": None if threshold is None or threshold == float("-inf") else threshold}


def fitting_calibration(how: Combination, samples: int) -> CalibrationFile | None:
    """Read the calibration of a combination of so many samples, if it has one.

    Raises:
        UserError: if it cannot be read, or was fitted on other figures than these.
    """
    if how.calibration is None:
        return None
    path = Path(how.calibration)
    found = CalibrationFile.read(path)
    for key, wanted in (("rule", how.rule), ("samples", samples), ("source", how.source)):
        if found.made[key] != wanted:
            raise UserError(
                f"The calibration {path} was fitted with {key} = {found.made[key]!r}, not {wanted!r}; "
                f"fit one with the same settings (--fit-calibration)."
            )
    return found


def calibration_for(found: CalibrationFile, how: Combination, name: str) -> Calibration:
    """The calibration of one segmenter, named as its file of looks is, without the ending.

    Raises:
        UserError: if there is none.
    """
    if name not in found.executors:
        known = ", ".join(found.executors)
        raise UserError(f"The calibration {how.calibration} is for {known}, not for {name}.")
    return found.executors[name]


def check_calibration(how: Combination, samples: int, executors: Sequence[str]) -> None:
    """Refuse a calibration that cannot be used, before anything is asked.

    Args:
        how: the combination.
        samples: how many looks are combined.
        executors: names of the segmenters.

    Raises:
        UserError: as `fitting_calibration` and `calibration_for`.
    """
    found = fitting_calibration(how, samples)
    if found is not None:
        for name in executors:
            calibration_for(found, how, rollouts_name(name))


def read_combined(folder: RunFolder) -> dict[str, Any]:
    """How a run's looks were combined last: the fields of `Combination`, and `thresholds` per segmenter.

    Raises:
        UserError: if the file is missing or is no JSON object.
    """
    path = folder.path / COMBINED
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        Combination(**{key: data[key] for key in Combination.__dataclass_fields__})
    except (OSError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} does not say how looks were combined; run --rescore with --combine."
        ) from None
    return dict(data)
