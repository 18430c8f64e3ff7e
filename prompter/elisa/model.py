"""The model: a Qwen-VL policy, the adapter, and the vocabulary that each image extends."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from prompter.elisa.embedding import MaskAdapter
from prompter.elisa.text import AnswerTokens
from prompter.elisa.vocabulary import MaskTokens, extended, words_in

Generation = Literal["free", "constrained"]


class ElisaModel(nn.Module):
    """Chooses masks by telling their tokens.

    Args:
        model: a transformers Qwen-VL model, or a PEFT model around one.
        adapter: from mask embeddings to its token vectors.
        answers: its sentences, as token ids.
    """

    def __init__(self, model: Any, adapter: MaskAdapter, answers: AnswerTokens) -> None:
        super().__init__()
        self.policy_model, self.adapter, self.answers = model, adapter, answers

    @property
    def words(self) -> int:
        """The number of the first mask's token."""
        return words_in(self.policy_model)

    def forward(self, batch: dict[str, Any], *, mask_weight: float = 1.0) -> dict[str, Tensor]:
        """The next-token loss of a batch of `prompter.elisa.batch.Collator`.

        Args:
            batch: with answers.
            mask_weight: weight of a mask's token; that of words is 1. The mean is taken by weight.

        Returns:
            `loss`; and, for a log, `text` and `mask`: the mean loss of either kind of token (0 if there is
            none).
        """
        extra = MaskTokens(self.adapter(batch["masks"]), batch["present"])
        labels: Tensor = batch["labels"]
        with extended(self.policy_model, extra):
            logits = self.policy_model(
                **batch["inputs"], use_cache=False, logits_to_keep=labels.shape[1] + 1
            ).logits
        wanted = labels != -100
        told, targets = logits[:, :-1][wanted].float(), labels[wanted]
        losses = F.cross_entropy(told, targets, reduction="none")
        is_mask = targets >= self.words
        weights = torch.where(is_mask, mask_weight, 1.0)
        return {
            "loss": (losses * weights).sum() / weights.sum(),
            "text": losses[~is_mask].mean(),
            "mask": losses[is_mask].sum() / max(1, int(is_mask.sum())),
        }

    @torch.no_grad()
    def generate(
        self,
        batch: dict[str, Any],
        *,
        generation: Generation,
        suppressed: tuple[int, ...] = (),
        max_new_tokens: int,
    ) -> list[list[int]]:
        """Answer greedily.

        Args:
            batch: of `prompter.elisa.batch.Collator`, without answers.
            generation: "constrained" says one of the two sentences it was taught, with masks that are there;
                "free" says what is most likely, words and masks alike.
            suppressed: ids that are never said.
            max_new_tokens: longest answer.

        Returns:
            Token ids of each answer, up to its end token, that included where it was reached.
        """
        extra = MaskTokens(self.adapter(batch["masks"]), batch["present"])
        processors: list[LogitsProcessor] = [_Never(suppressed)]
        if generation == "constrained":
            counts = batch["present"].sum(1).tolist()
            processors.append(_Sentences(self.answers, counts, batch["inputs"]["input_ids"].shape[1]))
        # Values are spelt out because `generate` fills the unset ones from the checkpoint's own defaults.
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=self.answers.end,
            pad_token_id=self.answers.end,
        )
        model: Any = self.policy_model
        was_training = self.training
        self.eval()
        try:
            with extended(model, extra):
                output = model.generate(
                    **batch["inputs"],
                    generation_config=config,
                    logits_processor=LogitsProcessorList(processors),
                )
        finally:
            self.train(was_training)
        new = output[:, batch["inputs"]["input_ids"].shape[1] :].tolist()
        return [self._until_end(ids) for ids in new]

    def _until_end(self, ids: list[int]) -> list[int]:
        return ids[: ids.index(self.answers.end) + 1] if self.answers.end in ids else ids


class _Never(LogitsProcessor):
    def __init__(self, ids: tuple[int, ...]) -> None:
        self._ids = torch.tensor(ids, dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, tokens] with -inf at what is never said."""
        return scores.index_fill(1, self._ids.to(scores.device), float("-inf"))


class _Sentences(LogitsProcessor):
    """Lets only `AnswerTokens.allowed` through."""

    def __init__(self, answers: AnswerTokens, masks: list[int], prompt: int) -> None:
        self._answers, self._masks, self._prompt = answers, masks, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, tokens] with -inf at what would leave the sentences."""
        kept = torch.full_like(scores, float("-inf"))
        for row, said in enumerate(input_ids[:, self._prompt :].tolist()):
            allowed = self._answers.allowed(said, self._masks[row])
            kept[row, allowed] = scores[row, allowed]
        return kept
