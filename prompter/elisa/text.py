"""Answers that name masks, as token ids: written, constrained while they are generated, and read.

Mask i is token `words + i` and is shown as `<SEG_MASK_{i + 1}>`, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prompter.elisa.settings import PLACE, ElisaSettings
from prompter.types import FailureKind, ParseFailure


@dataclass(frozen=True)
class AnswerTokens:
    """The token ids of an ELISA policy's two sentences.

    Args:
        before, after: what stands on either side of the masks.
        nothing: the sentence that names none.
        end: the end token, which follows either.
        words: the number of the first mask's token.
        most: of masks in one answer.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    nothing: tuple[int, ...]
    end: int
    words: int
    most: int

    @classmethod
    def of(cls, settings: ElisaSettings, tokenizer: Any, words: int) -> AnswerTokens:
        """Tokenise the sentences; each part by itself, as masks are no text."""
        before, after = settings.answer.split(PLACE)

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

        return cls(
            ids(before),
            ids(after),
            ids(settings.nothing),
            int(tokenizer.eos_token_id),
            words,
            settings.most_masks,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, its end included."""
        return max(len(self.before) + self.most + len(self.after), len(self.nothing)) + 1

    def write(self, masks: Sequence[int]) -> list[int]:
        """The ids of an answer that names these masks (at most `most` are named), its end included."""
        if not masks:
            return [*self.nothing, self.end]
        named = [self.words + mask for mask in masks[: self.most]]
        return [*self.before, *named, *self.after, self.end]

    def allowed(self, said: Sequence[int], masks: int) -> list[int]:
        """The tokens that may follow `said` if the answer is to be one of `write`'s.

        Args:
            said: ids so far, such as this gave before.
            masks: how many masks the image has.

        Returns:
            Ids, at least one; the end token alone where nothing else fits.
        """
        said = tuple(said)
        found: set[int] = set()
        if self.nothing[: len(said)] == said:
            found.add(self.nothing[len(said)] if len(said) < len(self.nothing) else self.end)
        start = len(self.before)
        if len(said) < start:
            if self.before[: len(said)] == said and masks:
                found.add(self.before[len(said)])
        elif said[:start] == self.before:
            found |= self._after_before(said[start:], masks)
        return sorted(found or {self.end})

    def _after_before(self, rest: Sequence[int], masks: int) -> set[int]:
        named = 0
        while named < len(rest) and rest[named] >= self.words:
            named += 1
        tail = (*self.after, self.end)
        said = tuple(rest[named:])
        if said:
            return {tail[len(said)]} if len(said) < len(tail) and tail[: len(said)] == said else set()
        free = set(range(self.words, self.words + masks)) - set(rest[:named]) if named < self.most else set()
        return free | ({tail[0]} if named else set())

    def text(self, ids: Sequence[int], tokenizer: Any) -> str:
        """An answer as text, its masks as `<SEG_MASK_i>` counted from 1; other special tokens are dropped."""
        pieces: list[str] = []
        words: list[int] = []
        for token in (*ids, self.words):
            if token < self.words:
                words.append(int(token))
                continue
            pieces.append(str(tokenizer.decode(words, skip_special_tokens=True)))
            pieces.append(f"<SEG_MASK_{token - self.words + 1}>")
            words = []
        return "".join(pieces[:-1])

    def read(
        self, ids: Sequence[int], tokenizer: Any, finish_reason: Literal["stop", "length"] = "stop"
    ) -> list[int] | ParseFailure:
        """The masks that an answer names, each once, in order; or why it is no answer.

        Masks count wherever they stand in the text. A text without any is an answer only if it is the
        sentence that says so.
        """
        masks = list(dict.fromkeys(int(token) - self.words for token in ids if token >= self.words))
        if masks:
            return masks
        text = self.text(ids, tokenizer)
        if text.strip() == str(tokenizer.decode(list(self.nothing))).strip():
            return []
        if finish_reason == "length":
            return ParseFailure(FailureKind.TRUNCATED, "the text ends before it names a mask", text)
        return ParseFailure(
            FailureKind.NO_ANSWER, "the text names no mask, nor does it say that there is none", text
        )
