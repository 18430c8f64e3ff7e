"""Time the reward path, rollouts, and whole training steps.

`prompter bench executor` times a frozen segmenter as a reward: as others use it, ours cold, ours warm, and
the decode-only limit. All on the same rollouts in one process. "Peers' way" sets the image for every
completion and predicts one instance at a time, with the published package's own predictor; it is timed on the
first few images (--peer-images) and compared per image. Where ours computes in another type than float32, it
is timed in both. The decode-only limit is one call of the bare segmenter on embeddings that are already in
memory. On a GPU: --executor FAMILY,device=cuda. Without flags: mobile-sam on aerial-buildings:train.

`prompter bench decoder` takes the decoder's tricks out one by one and says what each of them gains.

`prompter bench step [CONFIG]` times whole training steps: TRL's own trainer with transformers' `generate`
and the field's reward (the image set for every completion, instances one by one), then what ours adds, one
part after the other: one encode per image, batched decode, shared prompts, vLLM. Without CONFIG it is the
small shipped policy with MobileSAM; any `--dotted.key value` overrides the config, as in
--sampler.backend hf. A GPU is used if there is one.

`prompter bench rollout [CONFIG]` samples, segments and scores the same questions without training, with every
sampler and both kinds of executor.

`prompter bench scale` says how many vLLM engines one driver keeps busy. The pool runs for real on engines
that compute nothing; how long they take a share is read from a run's metrics.jsonl (--latencies) or drawn
around --seconds, and skipped.

    prompter bench executor
    prompter bench step --json step.json
    prompter bench rollout --sampler.max_num_seqs 128
    prompter bench executor --executor onnx,dtype=auto --images 16 --json bench.json
    prompter bench scale --engines 1,8,64 --latencies runs/mine/metrics.jsonl
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from envs.bench import PHASES, bench_executor
from prompter.errors import UserError
from prompter.runs.tables import markdown_table, text_table
from recipes.commands import flags
from recipes.commands.bench_runs import RUNS, add_run_flags, refuse_run_flags, set_threads, write_result
from recipes.commands.bench_scale import add_scale_flags, run_scale
from recipes.commands.output import add_json_file

if TYPE_CHECKING:
    from envs.executors import ExecutorConfig
    from envs.workload import Workload


TAKES_OVERRIDES = True


def bench_text(result: dict[str, Any]) -> str:
    """The measurements as text: a row per way, then the ratios."""
    work, environment = result["workload"], result["environment"]
    config = result["executor"]
    lines = [
        f"executor {config['family']} ({config['model'] or 'default weights'}), {config['dtype']}, "
        f"cache {config['cache_dtype']}, on {environment['device']}, {environment['threads']} threads",
        f"{work['images']} images of {work['image_hw'][1]} x {work['image_hw'][0]}, "
        f"{work['completions']} completions, {work['instances']} instances",
        "",
    ]
    rows = [["", "images", "seconds", "s/image", "masks/s", "CPU s", "peak MB"]]
    for name, title in PHASES.items():
        if name not in result["phases"]:
            continue
        phase = result["phases"][name]
        rows.append(
            [
                title,
                str(phase["images"]),
                f"{phase['seconds']:.2f}",
                f"{phase['seconds_per_image']:.3f}",
                f"{phase['masks_per_second']:.1f}",
                f"{phase['cpu_seconds']:.2f}",
                f"{phase['peak_memory_mb']:.0f}",
            ]
        )
    lines += text_table(rows, numbers=True)
    ratios, agreement = result["ratios"], result["agreement"]
    lines += [
        "",
        *(
            f"{way} is {ratios[f'{way}_over_{peers}']:.1f} x the {PHASES[peers]} "
            f"(by CPU time {ratios[f'{way}_over_{peers}_cpu']:.1f} x)"
            for peers in ("peers", "peers_in_our_dtype")
            if peers in result["phases"]
            for way in ("cold", "warm")
        ),
        f"warm reaches {ratios['warm_over_limit']:.2f} of the decode-only limit",
        f"masks agree with the peers' in float32: IoU {agreement['iou']:.6f}, "
        f"{agreement['different_pixels']} of {agreement['pixels']} pixels differ "
        f"over {agreement['completions']} completions",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "what", choices=["executor", "decoder", "step", "rollout", "scale"], help="what to time"
    )
    flags.add_executor(parser)
    flags.add_benchmark(parser)
    flags.add_dataset_flags(parser)
    parser.add_argument("--images", type=int, help="distinct images; default: 64, for the decoder 4")
    parser.add_argument("--side", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--group", type=int, default=16, help="completions per image")
    parser.add_argument("--instances", type=int, default=4, help="most instances per completion")
    parser.add_argument("--peer-images", type=int, default=2, help="images on which the peers' way is timed")
    parser.add_argument("--rounds", type=int, default=5, help="how often each of the decoder's rows is timed")
    add_run_flags(parser)
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's own choice")
    add_scale_flags(parser)
    flags.add_seed(parser, "the made-up prompts")
    add_json_file(parser, "everything that was measured")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, write the JSON if asked to, return 0."""
    if arguments.what in RUNS:
        return RUNS[arguments.what](arguments)
    refuse_run_flags(arguments)
    if arguments.what == "scale":
        return run_scale(arguments)
    from envs.workload import make_workload
    from recipes.commands.arguments import benchmark_parts, dataset_options, parse_executor

    if arguments.images is None:
        arguments.images = {"executor": 64, "decoder": 4}[arguments.what]
    for name in ("images", "side", "group", "instances", "peer_images", "rounds"):
        if getattr(arguments, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} must be at least 1, but is {getattr(arguments, name)}."
            )
    name, split = benchmark_parts(arguments.benchmark or "aerial-buildings:train")
    config = parse_executor(arguments.executor or "mobile-sam", **arguments.executor_fields)
    if config.family == "onnx" and "multimask" not in config.model_fields_set:
        # Its exported graph, which is the peers' way there, knows only the best of three masks.
        config = config.model_copy(update={"multimask": "best"})
    set_threads(arguments.threads)
    workload = make_workload(
        name,
        split,
        options=dataset_options(arguments),
        images=arguments.images,
        side=arguments.side,
        group=arguments.group,
        most_instances=arguments.instances,
        seed=arguments.seed,
    )
    if arguments.what == "decoder":
        result: Any = _bench_decoder(config, workload, arguments.rounds)
    else:
        result = bench_executor(config, workload, peer_images=min(arguments.peer_images, arguments.images))
        print(bench_text(result))
    write_result(result, arguments.json)
    return 0


def _bench_decoder(config: ExecutorConfig, workload: Workload, rounds: int) -> dict[str, Any]:
    """Print the decoder's ledger; returns it JSON-ready.

    Raises:
        UserError: if the segmenter decodes by other means.
    """
    from envs.executors.decoding.ledger import measure
    from envs.executors.decoding.package_prompts import PackagePrompts
    from envs.executors.decoding.promptable import PromptableSegmenter
    from envs.executors.families import build_segmenter

    segmenter = build_segmenter(config)
    if not isinstance(segmenter, PromptableSegmenter) or not isinstance(segmenter.decoder, PackagePrompts):
        raise UserError(
            f"family {config.family!r} has no use of the decoder's tricks: "
            "take mobile-sam, segment-anything, sam2 or onnx."
        )
    embeddings = segmenter.encode(workload.images)
    repeated = [e for e, group in zip(embeddings, workload.prompts, strict=True) for _ in group]
    prompts = [prompt_set for group in workload.prompts for prompt_set in group]
    rows = list(measure(segmenter, repeated, prompts, rounds))
    print(f"{config.family}, {config.dtype}: {workload.instances} masks on {len(workload.images)} images")
    table = [["trick", "ms per mask", "without it", "gain"]]
    for row in rows:
        times = (f"{1000 * seconds:.2f}" for seconds in (row.seconds, row.seconds_without))
        table.append([row.trick, *times, f"{row.gain:.1%}"])
    print("\n".join(markdown_table(table)))
    return {
        "executor": config.model_dump(mode="json"),
        "masks": workload.instances,
        "rows": [asdict(row) for row in rows],
    }
