"""Answers of every dialect in every wrapping, with every fault, against an oracle that knows what was said.

`PROMPTER_ANSWERS=20000 pytest tests/unit/prompter/test_answers.py -s` draws so many and prints how many there
were of each kind.
"""

from __future__ import annotations

import os
import time
from collections import Counter

from prompter.dialects import DIALECTS
from prompter.dialects.base import FREE
from prompter.parse import parse_completion
from prompter.types import ParseFailure, PromptSet
from tests.fixtures import answers
from tests.fixtures.answer_faults import Answers
from tests.fixtures.answers import Case

COUNT = int(os.environ.get("PROMPTER_ANSWERS", "2500"))


def read(case: Case) -> PromptSet | ParseFailure:
    return parse_completion(
        case.text,
        action_space=FREE,
        frame=case.frame,
        finish_reason="length" if case.cut else "stop",
        dialect=DIALECTS[case.dialect],
        **case.settings,
    )


def right(case: Case, got: PromptSet | ParseFailure) -> bool:
    if isinstance(got, ParseFailure):
        return not isinstance(case.wanted, PromptSet) and got.kind in case.wanted
    return got == case.wanted and (got.clipped, got.sorted) == case.mended


def test_every_generated_answer_is_read_as_it_was_meant() -> None:
    drawn = Answers(7)
    seen: Counter[str] = Counter()
    seconds, wrong = 0.0, []
    for _ in range(COUNT):
        case = drawn.draw()
        started = time.perf_counter()
        got = read(case)
        seconds += time.perf_counter() - started
        outcome = (
            str(got.kind) if isinstance(got, ParseFailure) else "prompts" if got.instances else "no target"
        )
        seen[f"{case.dialect:<16}{case.kind:<18}{outcome}"] += 1
        if not right(case, got):
            wrong.append((case, got))
    assert not wrong, f"{len(wrong)} of {COUNT} misread; the first: {wrong[0]}"
    assert {line.split()[0] for line in seen} == set(DIALECTS) == set(answers.DIALECTS)
    print(f"\n{COUNT} answers read as meant, {1e6 * seconds / COUNT:.0f} microseconds each")
    for line, count in sorted(seen.items()):
        print(f"  {line:<52}{count:>6}")
