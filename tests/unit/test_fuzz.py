"""20,000 random and mutated completions through parser, executor and reward: none raises, each is counted.

`pytest tests/unit/test_fuzz.py -s` prints how many there were of each kind.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from envs.masks import iou
from envs.oracle import oracle_prompts, target_masks
from envs.rollout import Rollout
from envs.sample import Sample
from prompter.action import write_answer
from prompter.runs.jsonl import read_lines, write_lines
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from recipes.training.metrics import describe_groups
from recipes.training.scoring import RolloutScorer
from rewards.registry import build_reward
from tests.fixtures.toy_task import SIDE, Squares, completion, toy_policy

COUNT = 20_000
GROUP_SIZE = 8
POLICY = toy_policy()

PIECES = (
    *(
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "```json",
        "```",
        "[",
        "]",
        "{",
        "}",
        "[[",
        "]]",
        ",",
        ":",
    ),
    *(
        '"bbox_2d"',
        '"positive_points"',
        '"negative_points"',
        '"x"',
        "[1,2,3,4]",
        "[[5,6]]",
        "[10,10,900,900]",
    ),
    *("NaN", "Infinity", "-Infinity", "null", "true", "1e999", "-0.0", "0", "1000", "1000.1", "5e-324", "-1"),
    *("9" * 30, "9" * 400, "9" * 5000, "１２", "π", "\u202e", "\x00", "\ud800", "😀", " ", "\n", "\\", '"'),
    *("[" * 30, "[" * 2000, "{" * 2000, '{"bbox_2d":' * 50, " " * 5000),
)


def valid(rng: random.Random, sample: Sample) -> str:
    """An answer as the policy should write it: the truth, something random, or nothing."""
    choice = rng.random()
    if choice < 0.4:
        prompts = oracle_prompts(target_masks(sample), box=rng.random() < 0.7, points=rng.randint(1, 2))
    elif choice < 0.9:
        prompts = PromptSet(tuple(random_instance(rng) for _ in range(rng.randint(0, 5))))
    else:
        prompts = PromptSet()
    think = rng.choice([None, None, "a <answer> in thought", "roofs, ships; [1, 2]"])
    return write_answer(prompts, POLICY.frame(sample.image_wh), think=think)


def random_instance(rng: random.Random) -> Instance:
    x, y = rng.uniform(0, SIDE - 2), rng.uniform(0, SIDE - 2)
    box = (x, y, rng.uniform(x + 1, SIDE), rng.uniform(y + 1, SIDE)) if rng.random() < 0.7 else None
    points = tuple((rng.uniform(0, SIDE), rng.uniform(0, SIDE)) for _ in range(rng.randint(box is None, 2)))
    return Instance(box, points, points[:1] if rng.random() < 0.1 else ())


def cut(rng: random.Random, text: str) -> str:
    start, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    return rng.choice([text[:end], text[start:], text[:start] + text[end:]])


def swap(rng: random.Random, text: str) -> str:
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        if len(letters) > 1:
            i, j = rng.randrange(len(letters)), rng.randrange(len(letters))
            letters[i], letters[j] = letters[j], letters[i]
    return "".join(letters)


def insert(rng: random.Random, text: str) -> str:
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice(PIECES) + text[place:]
    return text


def repeat(rng: random.Random, text: str) -> str:
    start, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    return text[:end] + text[start:end] * rng.randint(1, 5) + text[end:]


def change_number(rng: random.Random, text: str) -> str:
    """Replace one run of digits; what comes out is mostly JSON still."""
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    start = end = rng.choice(places)
    while end < len(text) and text[end].isdigit():
        end += 1
    new = rng.choice(["-5", "1001", "0.5", "1e2", "NaN", "null", '"7"', "[]", "true", "9" * 400, "1e-320"])
    return text[:start] + new + text[end:]


def rename(rng: random.Random, text: str) -> str:
    old, new = rng.choice(
        [
            ("bbox_2d", "positive_points"),
            ("positive_points", "negative_points"),
            ("bbox_2d", "box"),
            ("<answer>", ""),
            ("</answer>", ""),
            ("<answer>", "<answer>```json\n"),
            (",", ", "),
            ('"', "'"),
        ]
    )
    return text.replace(old, new)


def shuffled_pieces(rng: random.Random, text: str) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))


def random_bytes(rng: random.Random, text: str) -> str:
    data = rng.randbytes(rng.randint(0, 200))
    return data.decode("utf-8", errors=rng.choice(["replace", "ignore", "surrogateescape"]))


def deeply_nested(rng: random.Random, text: str) -> str:
    depth = rng.choice([5, 200, rng.randint(800, 1100), 100_000])
    inside = rng.choice(["", "1", "{}", text])
    nested = "[" * depth + inside + "]" * rng.choice([depth, depth - 1])
    return rng.choice([nested, f'[{{"bbox_2d":{nested}}}]', f"<answer>{nested}</answer>"])


MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    *(cut, swap, insert, repeat, change_number, rename),
    *(shuffled_pieces, random_bytes, deeply_nested),
)
WEIGHTS = (2, 1, 2, 1, 9, 3, 1, 1, 0.2)  # the parser's depths lie behind valid JSON


def draw(rng: random.Random, sample: Sample) -> str:
    """A completion: one in six as it should be, the others changed one to three times."""
    text = valid(rng, sample)
    if rng.random() < 1 / 6:
        return text
    for mutate in rng.choices(MUTATIONS, WEIGHTS, k=rng.choice([1, 1, 1, 2, 3])):
        text = mutate(rng, text)
    return text


def test_no_completion_raises_and_each_is_counted_under_its_kind() -> None:
    rng = random.Random(20)
    source = Squares(50)
    executors = {"box": LocalExecutor(BoxSegmenter(), name="box")}
    scorer = RolloutScorer(POLICY, executors, build_reward({"mask_iou": 1.0}))
    outcomes: Counter[str] = Counter()
    told: Counter[str] = Counter()
    rewarded: dict[str, list[float]] = {}
    seconds = 0.0
    for step in range(COUNT // (len(source) * GROUP_SIZE)):
        samples = list(source)
        groups = [[completion(draw(rng, sample)) for _ in range(GROUP_SIZE)] for sample in samples]
        started = time.perf_counter()
        scored = scorer.score(list(range(len(samples))), samples, groups, step)
        seconds += time.perf_counter() - started
        for group, completions in zip(scored, groups, strict=True):
            assert [one.text for one in completions] == [one.completion for one in group.rollouts]
            for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
                outcome = check(rollout, reward)
                outcomes[outcome] += 1
                assert reward is not None
                rewarded.setdefault(outcome, []).append(reward)
        summary = describe_groups(scored, dict(enumerate(samples)))
        told.update(summary["parse_failure_kinds"])
        assert summary["parse_failures"] == sum(summary["parse_failure_kinds"].values())
        assert summary["executor_failures"] == summary["unscored_completions"] == 0

    failures = {kind: count for kind, count in outcomes.items() if kind in {*FailureKind}}
    assert sum(outcomes.values()) == COUNT
    assert dict(told) == failures
    answered = COUNT - sum(failures.values())
    counters = scorer.counters()
    assert (counters.decodes, counters.failures) == (answered, 0)
    assert counters.encodes == len(source) // 2, "each image once"
    assert {*failures} == {*FailureKind} - {FailureKind.TRUNCATED}, "the fuzzer reaches every kind"
    assert answered > COUNT / 10 and max(rewarded["prompts"]) == 1.0
    print(f"\n{COUNT} completions, {1000 * seconds / COUNT:.2f} ms each from text to reward")
    for kind, count in outcomes.most_common():
        print(f"  {kind:<16} {count:>6}   mean reward {np.mean(rewarded[kind]):.3f}")


def check(rollout: Rollout, reward: float | None) -> str:
    """Hold what must be true of any rollout; return what it is counted under."""
    assert rollout.executor_error is None
    if isinstance(rollout.reading, ParseFailure):
        assert reward == 0.0 and rollout.prediction is None
        assert rollout.reading.message
        return rollout.reading.kind
    assert reward is not None and 0.0 <= reward <= 1.0
    assert rollout.prediction is not None
    assert all(POLICY.settings.action_space.violation(one) is None for one in rollout.reading.instances)
    return "empty answer" if rollout.reading.is_empty else "prompts"


def test_cut_completions_are_truncated() -> None:
    rng = random.Random(3)
    sample = Squares(1)[0]
    kinds: Counter[str] = Counter()
    for _ in range(500):
        answer = POLICY.parse(cut(rng, valid(rng, sample)), sample.image_wh, "length")
        kinds[answer.kind if isinstance(answer, ParseFailure) else "prompts"] += 1
    assert kinds[FailureKind.TRUNCATED] > 100
    assert kinds[FailureKind.NO_ANSWER] == kinds[FailureKind.NOT_JSON] == 0


def test_the_reward_of_a_fuzzed_answer_is_its_masks_iou() -> None:
    """Re-stated: the box executor's masks by hand, for answers of one box."""
    rng = random.Random(4)
    source = Squares(20)
    scorer = RolloutScorer(POLICY, {"box": LocalExecutor(BoxSegmenter())}, build_reward({"mask_iou": 1.0}))
    for index, sample in enumerate(source):
        x1, x2 = sorted(rng.sample(range(SIDE + 1), 2))
        y1, y2 = sorted(rng.sample(range(SIDE + 1), 2))
        text = write_answer(PromptSet((Instance((x1, y1, x2, y2)),)), POLICY.frame(sample.image_wh))
        mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
        mask[y1:y2, x1:x2] = True
        target = sample.target_mask()
        (group,) = scorer.score([index], [sample], [[completion(text)]], 1)
        assert group.rewards == [iou(mask, target) if target.any() else 0.0]


def test_rollouts_of_any_text_can_be_written_and_read_back(tmp_path: Path) -> None:
    rng = random.Random(5)
    source = Squares(10)
    scorer = RolloutScorer(POLICY, {"box": LocalExecutor(BoxSegmenter())}, build_reward({"mask_iou": 1.0}))
    groups = [[completion(draw(rng, sample)) for _ in range(30)] for sample in source]
    groups[0].append(completion("\ud800 alone, \udfff, \x00, \u2028"))
    scored = scorer.score(list(range(10)), list(source), groups, 1)
    rollouts = [one for group in scored for one in group.rollouts]
    write_lines(tmp_path / "rollouts.jsonl", (one.to_json() for one in rollouts))
    assert [Rollout.from_json(record) for record in read_lines(tmp_path / "rollouts.jsonl")] == rollouts
