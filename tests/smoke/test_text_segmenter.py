"""SAM 3 asked with text, through the evaluator: a tiny random model of the true class and format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.masks import decode_rle, encode_rle
from envs.sample import Sample
from eval.answerers import build_answerer
from eval.answerers.sam3 import answer_from_masks
from eval.results import rescore
from eval.runner import evaluate
from prompter.errors import UserError
from prompter.types import PromptSet
from rewards.replay import read_rollouts

pytestmark = pytest.mark.smoke

WIDTH, HEIGHT = 90, 60


def samples(count: int) -> list[Sample]:
    made = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        target = np.zeros((HEIGHT, WIDTH), bool)
        target[10:40, 20 : 40 + number] = True
        made.append(
            Sample(
                sample_id=f"s{number}",
                dataset="unit",
                split="test",
                image_id=f"i{number}",
                image_wh=(WIDTH, HEIGHT),
                load_image=lambda pixels=pixels: Image.fromarray(pixels),  # type: ignore[misc]
                query=("red ship", "where could people swim?")[number % 2],
                target=encode_rle(target),
            )
        )
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM 3 of 0.26 M random parameters, saved as `transformers` saves it."""
    torch = pytest.importorskip("torch")
    from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    folder = tmp_path_factory.mktemp("sam3")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in f"{letters}?.")]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layer = {**small, "intermediate_size": 64}
    backbone = {
        **{"model_type": "sam3_vit_model", "num_hidden_layers": 2, "global_attn_indexes": [1], **layer},
        **{"image_size": 112, "patch_size": 14, "window_size": 4, "pretrain_image_size": 112},
    }
    text = {"model_type": "clip_text_model", "vocab_size": len(tokens), "projection_dim": 32, **layer}
    text.update(
        num_hidden_layers=1, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    torch.manual_seed(0)
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=text,
        geometry_encoder_config={**layer, "num_layers": 1},
        detr_encoder_config={**layer, "num_layers": 1},
        detr_decoder_config={**layer, "num_layers": 2, "num_queries": 5},
        mask_decoder_config=small,
    )
    Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32})
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    Sam3Processor(images, tokenizer, target_size=112).save_pretrained(folder)
    return folder


def test_masks_come_from_the_text_and_survive_resumption(checkpoint: Path, tmp_path: Path) -> None:
    options = {"threshold": 0.0, "mask_threshold": 0.5, "device": "cpu"}

    def run() -> Path:
        answerer = build_answerer(f"sam3:{checkpoint}", options)
        done = evaluate(
            samples(6),
            answerer,
            {"own-masks": None},
            tmp_path / "run",
            config={},
            chunk=2,
            progress=False,
        )
        assert (
            0
            <= rescore(done.folder, ["strict"])["own-masks"]["protocols"]["strict"]["metrics"]["gIoU"][
                "value"
            ]
        )
        return done.rollouts["own-masks"]

    path = run()
    first = path.read_bytes()
    rollouts = list(read_rollouts(path))
    for rollout in rollouts:
        assert isinstance(rollout.reading, PromptSet) and rollout.prediction is not None
        assert len(rollout.predicted_ious) == len(rollout.reading)
        mask = decode_rle(rollout.prediction, (HEIGHT, WIDTH))
        assert mask.any() == (not rollout.reading.is_empty)
    assert any(len(rollout.reading) for rollout in rollouts)
    path.unlink()  # the masks are in the completions, so the model is not asked again
    assert run().read_bytes() == first


def test_an_answer_holds_a_box_and_a_mask_per_instance() -> None:
    one, none = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    one[5:10, 20:50] = True
    answer = answer_from_masks([one, none], [0.9, 0.8])
    assert isinstance(answer.reading, PromptSet)
    assert [instance.box for instance in answer.reading.instances] == [(20.0, 5.0, 50.0, 10.0)]
    assert answer.masks == (encode_rle(one),) and answer.scores == (0.9,)


def test_who_brings_no_masks_needs_a_segmenter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answers with prompts"):
        evaluate(
            samples(2),
            build_answerer("baseline:oracle-box"),
            {"own-masks": None},
            tmp_path / "run",
            config={},
            progress=False,
        )


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        build_answerer(f"sam3:{tmp_path / 'absent'}")
    with pytest.raises(UserError, match="Did you mean 'threshold'"):
        build_answerer("sam3:facebook/sam3", {"treshold": 0.3})
