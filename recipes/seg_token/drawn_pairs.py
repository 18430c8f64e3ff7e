"""Question-answer pairs about drawn scenes, as a first stage of training learns from.

    python -m recipes.seg_token.drawn_pairs -o runs/pairs --scenes 400

Writes OUT/images/*.png and OUT/pairs.json. A pair is a question of `synthetic-aerial` and what it means in
words: how many there are and what they are; no masks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from envs.datasets.synthetic import SyntheticAerial
from envs.sample import Sample
from prompter.runs.files import atomic_write

COUNTS = ("no", "one", "two", "three", "four")


def answer_of(sample: Sample) -> str:
    """What a question means, in words: "two: harbour", or "no ship"."""
    count, category = len(sample.instances), sample.tags["category"]
    return f"no {category}" if not count else f"{COUNTS[count]}: {category}"


def write_pairs(out: Path, *, scenes: int, queries: int = 4, seed: int = 0) -> Path:
    """Draw scenes and write their pairs; return the file's path. The scenes are those of the train split."""
    source = SyntheticAerial("train", scenes=scenes, queries_per_scene=queries, seed=seed)
    records = []
    for sample in source:
        image = out / "images" / f"{sample.image_id}.png"
        if not image.exists():
            with atomic_write(image, "wb") as handle:
                sample.load_image().save(handle, format="PNG")
        records.append(
            {"image": f"images/{image.name}", "question": sample.query, "answer": answer_of(sample)}
        )
    with atomic_write(out / "pairs.json") as handle:
        json.dump(records, handle, indent=0, ensure_ascii=False)
    return out / "pairs.json"


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder")
    parser.add_argument("--scenes", type=int, default=400, help="how many scenes (default: 400)")
    arguments = parser.parse_args()
    print(write_pairs(arguments.out, scenes=arguments.scenes))


if __name__ == "__main__":
    main()
