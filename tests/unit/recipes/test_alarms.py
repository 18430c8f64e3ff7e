"""Alarms: what starts each, what does not, and that a resumed run has those of an unbroken one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.alarms import COLLAPSED, END, KIND, Alarm, AlarmsConfig, Watch, alarm_lines

FINE = {
    "reward": 0.5,
    "refusals": 0.1,
    "parse_failure_rate": 0.05,
    "frac_reward_zero_std": 0.2,
    "drift": 0.1,
    "entropy": 0.9,
}


def window(step: int, **changed: Any) -> dict[str, Any]:
    return {"step": step, "kind": "train", **FINE, **changed}


def evaluation(step: int, gIoU: float | None, best: int | None = None, high: float = 0.02) -> dict[str, Any]:
    against = {"step": best, "difference": high - 0.05, "low": high - 0.1, "high": high}
    return {"step": step, "kind": "eval", "gIoU": gIoU, **({} if best is None else {"against_best": against})}


def seen(lines: list[dict[str, Any]], **config: Any) -> Watch:
    watch = Watch(AlarmsConfig(**config))
    started = [alarm for line in lines for alarm in watch.see(line)]
    assert started == watch.alarms
    return watch


def started(lines: list[dict[str, Any]], **config: Any) -> list[tuple[str, int]]:
    return [(alarm.name, alarm.step) for alarm in seen(lines, **config).alarms]


def rising(key: str, first: float, last: float, steps: int = 12) -> list[dict[str, Any]]:
    return [window(step, **{key: first + (last - first) * (step > 6)}) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([window(step) for step in range(1, 40)], []),
        # The mean of five windows has risen by a quarter above its lowest two windows after the change.
        (rising("refusals", 0.1, 0.8), [("refusals", 8)]),
        (rising("parse_failure_rate", 0.0, 0.7), [("parse-failures", 8)]),
        (rising("refusals", 0.1, 0.3), []),
        # A policy that begins badly and gets better is fine, and so is a single bad window.
        (rising("parse_failure_rate", 0.6, 0.0), []),
        (rising("refusals", 0.5, 0.0), []),
        ([window(step, refusals=float(step == 8)) for step in range(1, 16)], []),
        (rising("frac_reward_zero_std", 0.3, 1.0), [("spread", 11)]),
        (rising("drift", 0.2, 3.0), [("drift", 8)]),
        # Without adapters there is TRL's own figure, where there is a KL term.
        ([{"step": n, "kind": "train", "kl": 2.0} for n in range(1, 7)], [("drift", 5)]),
        # Windows without a targeted question, and lines of steps that begin no window, count nothing.
        ([window(step, refusals=None) for step in range(1, 12)], []),
        ([{"step": step, "kind": "train", "loss": 0.1} for step in range(1, 12)], []),
    ],
)
def test_shares_of_windows(lines: list[dict[str, Any]], expected: list[tuple[str, int]]) -> None:
    assert started(lines) == expected


def test_an_alarm_starts_once_and_says_what_was_seen_what_it_means_and_what_to_turn() -> None:
    lines = [
        *rising("refusals", 0.1, 0.9),
        *(window(step, refusals=0.0) for step in range(13, 25)),
        *(window(step, refusals=0.9) for step in range(25, 40)),
    ]
    (alarm,) = seen(lines).alarms
    assert "since step 8" in alarm.sentence and "from 10 % (until step 6) to 42 %" in alarm.sentence
    assert "declining pays more than looking" in alarm.sentence and "(rewards)" in alarm.sentence
    assert alarm.sentence.endswith(".")


def training(rewards: tuple[float, float] = (0.3, 0.6)) -> list[dict[str, Any]]:
    """Evaluations at 0, 10 (the best), 20 and 30, the last two surely below it."""
    lines: list[dict[str, Any]] = [evaluation(0, 0.2)]
    for step in range(1, 31):
        if step == 10:
            lines.append(evaluation(10, 0.5, 0))
        elif step % 10 == 0:
            lines.append(evaluation(step, 0.4, 10, high=-0.01))
        lines.append(window(step, reward=rewards[step > 10]))
    return lines


def test_the_held_out_gIoU_falls_and_the_reward_does_not() -> None:
    watch = seen(training())
    assert [(alarm.name, alarm.step) for alarm in watch.alarms] == [("gap", 20), ("worse", 30)]
    assert watch.best == (10, 0.5)
    gap, worse = watch.alarms
    assert (
        "rose from 0.300 to 0.600 while the held-out gIoU fell from 50.0 at step 10 to 40.0" in gap.sentence
    )
    assert "at 2 evaluations in a row" in worse.sentence and "[-11.0, -1.0]" in worse.sentence
    assert started(training((0.6, 0.3))) == [("worse", 30)], "the reward fell, too"
    assert started(training(), worse_points=3) == [("gap", 20)]


def test_a_fall_that_may_be_chance_is_none() -> None:
    lines = training()
    at = next(place for place, one in enumerate(lines) if one["kind"] == "eval" and one["step"] == 20)
    assert started([*lines[:at], evaluation(20, 0.4, 10, high=0.001), *lines[at + 1 :]]) == [("gap", 30)]
    box_only = [{**one, "gIoU": None} if one["kind"] == "eval" else one for one in lines]
    assert started(box_only) == []


@pytest.mark.parametrize(
    ("stop", "ends"), [("never", [None, None]), ("collapse", [9, None]), ("worse", [9, 30])]
)
def test_where_a_run_ends(stop: str, ends: list[int | None]) -> None:
    found = []
    for lines in (rising("refusals", 0.1, 0.9), training()):
        watch = seen(lines, stop=stop)
        found.append(next((step for step in range(1, 40) if watch.ending(step)), None))
    # Refusals show in the line of step 8, which is logged after step 8 was over: the next one ends it.
    assert found == ends


@pytest.mark.parametrize("seed", range(20))
def test_alarms_do_not_hang_on_where_a_run_was_resumed(seed: int) -> None:
    """The lines up to any step, in any order, decide what an unbroken run decides there."""
    rng = random.Random(seed)
    lines: list[dict[str, Any]] = [evaluation(0, 0.3)]
    best, level = (0.3, 0), 0.3
    for step in range(1, 41):
        if step % 5 == 0:
            level += rng.uniform(-0.1, 0.08)
            lines.append(evaluation(step, level, best[1], high=rng.uniform(-0.05, 0.02)))
            best = max(best, (level, step))
        shares = {key: rng.random() for key in ("refusals", "parse_failure_rate", "frac_reward_zero_std")}
        lines.append(window(step, reward=rng.random(), drift=rng.uniform(0, 2), **shares))
    config = {"stop": "worse", "windows": 3, "spread": 0.3}
    whole = seen(lines, **config)
    assert whole.alarms
    for done in range(0, 41, 4):
        known = [line for line in lines if line["step"] <= done]
        rng.shuffle(known)
        resumed = Watch(AlarmsConfig(**config))
        resumed.see_all(known)
        assert resumed.alarms == [alarm for alarm in whole.alarms if alarm.step <= done]
        for line in lines:
            if line["step"] > done:
                resumed.see(line)
        assert resumed.alarms == whole.alarms and resumed.best == whole.best
        assert [resumed.ending(step) for step in range(1, 41)] == [whole.ending(n) for n in range(1, 41)]


def config_of(run_dir: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run_dir": str(run_dir),
            "policy": {"model": "x"},
            "dataset": {"name": "synthetic-aerial"},
            **sections,
        }
    )


def test_alarms_are_printed_once_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recipes.training.early_stop import watch_run

    folder = RunFolder.create(tmp_path / "run")
    config = config_of(folder.path)
    watch_run(folder, config)
    for line in rising("refusals", 0.1, 0.9):
        folder.log_metrics(line["step"], {key: line[key] for key in FINE})
    (alarm,) = [line for line in folder.read_metrics() if line["kind"].startswith(KIND)]
    assert (alarm["kind"], alarm["step"]) == (f"{KIND}refusals", 8) and "declining" in alarm["says"]
    assert capsys.readouterr().out == f"alarm (refusals): {alarm['says']}\n"
    assert alarm_lines(folder.read_metrics(), config.alarms) == [f"alarm (refusals): {alarm['says']}"]
    # Resumed, it is not told again, unless the run was killed before it could be.
    watch_run(RunFolder.create(folder.path, resume=True), config)
    assert capsys.readouterr().out == ""
    folder.truncate_to_step(8)
    folder.metrics_path.write_text("".join(folder.metrics_path.read_text().splitlines(keepends=True)[:-1]))
    watch_run(RunFolder.create(folder.path, resume=True), config)
    assert capsys.readouterr().out.startswith("alarm (refusals)")


def test_how_a_run_ended_is_told_until_it_goes_on() -> None:
    end = {"step": 40, "kind": END, "by": "worse", "result": 20, "planned": 60}
    lines = [window(step) for step in range(1, 41)] + [end]
    (told,) = alarm_lines(lines, AlarmsConfig())
    assert told.startswith(
        "ended early at step 40 of 60, by the alarm worse: the result is the policy of step 20"
    )
    assert "the policy it began with" in alarm_lines([*lines[:-1], {**end, "result": 0}], AlarmsConfig())[0]
    assert alarm_lines([*lines, window(41)], AlarmsConfig()) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"alarms": {"stop": "worse"}}, "eval.every_steps is 0"),
        (
            {"alarms": {"stop": "collapse"}, "trainer": {"fsdp": True}},
            "alarms.stop is collapse and trainer.fsdp",
        ),
    ],
)
def test_an_end_that_nothing_would_show_is_refused(sections: dict[str, Any], message: str) -> None:
    from recipes.training.early_stop import check_alarms

    with pytest.raises(UserError, match=message):
        check_alarms(config_of(Path("run"), **sections))
    check_alarms(config_of(Path("run")))
    check_alarms(config_of(Path("run"), alarms={"stop": "worse"}, eval={"every_steps": 5}))


def test_every_alarm_that_ends_a_run_is_one() -> None:
    assert Alarm(COLLAPSED[0], 1, False, "").name == "refusals"
