"""An ELISA policy: it chooses among masks that the frozen segmenter proposed, and brings them along.

It is evaluated with the executor `own-masks`; its prompts are the chosen masks' tight boxes, so that any
other executor can redraw them. What was on offer and what would have been right is kept with each answer,
for `eval.choices`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from torch import Tensor

from envs.executors.base import ExecutorFailure
from envs.executors.config import ExecutorConfig
from envs.masks import cell_coverage, decode_rle
from envs.proposals.candidates import Candidates, candidates_with_targets, proposed_candidates
from envs.proposals.config import ProposerConfig
from envs.proposals.propose import Proposals
from envs.proposals.segmenter_features import segmenter_features
from envs.proposals.store import GridProposer
from envs.rollouts import image_key, question_key
from envs.sample import RGB, Sample
from eval.answerers.sam3 import answer_from_masks
from prompter.elisa.batch import Collator, Question, on_device
from prompter.elisa.features import VisionTower, embed_masks
from prompter.elisa.folder import ElisaPolicy, load_elisa
from prompter.elisa.model import Generation
from prompter.errors import InfrastructureError, UserError
from prompter.registry import is_import
from prompter.runs.config import StrictModel, describe_validation_error
from prompter.sampling.token_sampler import named_seed, suppressed_ids
from prompter.types import Answer, Choice, ParseFailure


class ElisaOptions(StrictModel):
    """How an ELISA policy is evaluated.

    Args:
        generation: "constrained" lets it say only the sentences it was taught; "free" any.
        truth: put the targets themselves among the masks on offer (the paper's second setting). That looks at
            the truth: it measures the choice alone, not a system that could be used.
        match_iou: IoU from which on a proposal answers for a target.
        twin_iou: with `truth`, proposals that overlap a target more are left out.
        chooser: "model"; or "rand50", which takes each mask on offer with a probability of a half; or
            "oracle", which takes the right ones.
        seed: of rand50.
        batch_size: questions answered at once.
        device: "auto" (CUDA if there is one), "cpu", "cuda", …
        executor: who proposes, as FAMILY[:MODEL][,KEY=VALUE…], in the place of the segmenter it was trained
            with; needed where that one is code of somebody's own.
        proposals: folder in which proposals are kept; None takes the cache folder's.
    """

    generation: Generation = "constrained"
    truth: bool = False
    match_iou: float = Field(default=0.5, gt=0, le=1)
    twin_iou: float = Field(default=0.95, gt=0, le=1)
    chooser: Literal["model", "rand50", "oracle"] = "model"
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=1)
    device: str = "auto"
    executor: str | None = None
    proposals: Path | None = None


class MaskEmbedder:
    """Embeddings of masks of one image after the other; an image's features are computed once.

    Args:
        elisa: whose settings say which features.
        proposer: whose segmenter may be asked for them.
    """

    def __init__(self, elisa: ElisaPolicy, proposer: GridProposer) -> None:
        self._elisa, self._proposer = elisa, proposer
        self._tower = VisionTower(elisa.checkpoint, elisa.model.policy_model)
        self._last: tuple[str, Tensor] = ("", Tensor())

    def embed(self, sample: Sample, image: RGB, candidates: Candidates) -> Tensor:
        """Embeddings of the candidates' masks, float32 [candidates, width]."""
        key = image_key(sample)
        if self._last[0] != key:
            self._last = (key, self._features(sample, image))
        features = self._last[1]
        masks = [decode_rle(rle) for rle in candidates.masks]
        return embed_masks(
            features,
            cell_coverage(masks, (features.shape[0], features.shape[1])),
            np.array(candidates.boxes, dtype=np.float64).reshape(-1, 4),
            np.array(candidates.areas, dtype=np.int64),
            sample.image_wh,
            geometry=self._elisa.settings.geometry,
        )

    def _features(self, sample: Sample, image: RGB) -> Tensor:
        if self._elisa.settings.features == "segmenter":
            return segmenter_features(self._proposer.executor, image)
        return self._tower.features(self._elisa.checkpoint.model_image(sample.load_image()))


def propose_for(proposer: GridProposer, sample: Sample, image: RGB) -> Proposals:
    """The proposals for a sample's image.

    Raises:
        InfrastructureError: if the segmenter cannot serve it.
    """
    found = proposer.propose(image, image_key(sample))
    if isinstance(found, ExecutorFailure):
        raise InfrastructureError(
            f"No masks could be proposed for image {sample.image_id!r} of {sample.dataset}: {found.message}."
        )
    return found


class ElisaAnswerer:
    """Answers with the masks that an ELISA policy chooses.

    Args:
        elisa: the policy.
        proposer: who proposes masks; closed with this object.
        options: see `ElisaOptions`.
    """

    def __init__(self, elisa: ElisaPolicy, proposer: GridProposer, options: ElisaOptions) -> None:
        self._elisa, self._proposer, self._options = elisa, proposer, options
        self._embedder = MaskEmbedder(elisa, proposer)
        self._collate = Collator(elisa.checkpoint, elisa.model.policy_model)

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        offers = [self._offer(sample) for sample in samples]
        if self._options.chooser != "model":
            return [
                self._choose_without(sample, one) for sample, (one, _) in zip(samples, offers, strict=True)
            ]
        answers: list[Answer] = []
        size = self._options.batch_size
        for start in range(0, len(samples), size):
            part = slice(start, start + size)
            answers += self._ask(samples[part], offers[part])
        return answers

    def describe(self) -> dict[str, Any]:
        """What it is, JSON-ready; kept beside the run."""
        return {
            "elisa": self._elisa.settings.model_dump(mode="json"),
            "proposer": self._elisa.proposer,
            "trained": self._elisa.trained,
            "asked": self._elisa.checkpoint.describe(),
        }

    def close(self) -> None:
        """Close the segmenter."""
        self._proposer.close()

    def _offer(self, sample: Sample) -> tuple[Candidates, Tensor]:
        image = sample.image_array()
        proposals = propose_for(self._proposer, sample, image)
        if self._options.truth:
            candidates = candidates_with_targets(sample, proposals, self._options.twin_iou)
        else:
            candidates = proposed_candidates(sample, proposals, self._options.match_iou)
        embedded = (
            Tensor() if self._options.chooser != "model" else self._embedder.embed(sample, image, candidates)
        )
        return candidates, embedded

    def _ask(self, samples: Sequence[Sample], offers: Sequence[tuple[Candidates, Tensor]]) -> list[Answer]:
        elisa, options = self._elisa, self._options
        questions = [
            Question(
                sample.query,
                elisa.checkpoint.model_image(sample.load_image()),
                image_key(sample),
                embedded,
            )
            for sample, (_, embedded) in zip(samples, offers, strict=True)
        ]
        answers = elisa.model.answers
        said = elisa.model.generate(
            on_device(self._collate(questions), elisa.model.adapter.mean.device),
            generation=options.generation,
            suppressed=suppressed_ids(elisa.tokenizer),
            max_new_tokens=answers.longest
            if options.generation == "constrained"
            else max(answers.longest, elisa.checkpoint.settings.max_new_tokens),
        )
        found = []
        for ids, (candidates, _) in zip(said, offers, strict=True):
            read = answers.read(ids, elisa.tokenizer, "stop" if ids[-1] == answers.end else "length")
            text = answers.text(ids, elisa.tokenizer)
            if isinstance(read, ParseFailure):
                choice = Choice(len(candidates), (), candidates.matching)
                found.append(Answer(text, read, len(ids), choice=choice))
            else:
                found.append(_answer(candidates, read, text, len(ids)))
        return found

    def _choose_without(self, sample: Sample, candidates: Candidates) -> Answer:
        if self._options.chooser == "oracle":
            chosen = list(candidates.matching)
        else:
            seed = named_seed(self._options.seed, question_key(sample))
            drawn = np.random.default_rng(seed).random(len(candidates)) < 0.5
            chosen = [int(index) for index in np.flatnonzero(drawn)]
        return _answer(candidates, chosen, self._options.chooser, 0)


def _answer(candidates: Candidates, chosen: Sequence[int], text: str, tokens: int) -> Answer:
    masks = [decode_rle(candidates.masks[index]) for index in chosen]
    answer = answer_from_masks(masks, [candidates.scores[index] for index in chosen])
    choice = Choice(len(candidates), tuple(chosen), candidates.matching)
    return replace(answer, text=text, tokens=tokens, choice=choice)


def build_elisa_answerer(source: str, options: Mapping[str, Any]) -> ElisaAnswerer:
    """Make an answerer of a folder that `prompter elisa` wrote and the fields of `ElisaOptions`.

    Raises:
        UserError: if an option is unknown or bad, or the folder holds no ELISA policy.
    """
    try:
        chosen = ElisaOptions.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(f"Policy options: {describe_validation_error(error)}") from None
    if not source:
        raise UserError("Name the policy's folder, as in elisa:runs/elisa.")
    from envs.executors.decoding.promptable import resolve_device

    elisa = load_elisa(source, device=str(resolve_device(chosen.device)))
    return ElisaAnswerer(elisa, _proposer(source, elisa, chosen).open(), chosen)


def _proposer(source: str, elisa: ElisaPolicy, options: ElisaOptions) -> ProposerConfig:
    """Who proposes masks, as the folder says, or the options.

    Raises:
        UserError: if the folder does not tell, or names code, which the user has to name.
    """
    try:
        config = ProposerConfig.model_validate(elisa.proposer)
        if options.executor is not None:
            given = ExecutorConfig.from_text(options.executor)
            config = config.model_copy(update={"executor": given})
    except ValidationError as error:
        raise UserError(f"{source}, its proposer: {describe_validation_error(error)}") from None
    family = config.executor.family
    if options.executor is None and is_import(family):
        raise UserError(
            f"{source} says that masks are proposed by {family!r}, which is code. If you trust it, give it "
            f"yourself: --policy-option executor={family}."
        )
    return config.model_copy(update={"folder": options.proposals})
