"""Ask a policy for drawn squares, and say which coordinates and which dialect its answers are in.

    prompter probe shipped:small-policy
    prompter probe Qwen/Qwen2-VL-2B-Instruct --policy-option reads=qwen
    prompter probe openai:http://127.0.0.1:8000/v1#my-model --json

Six questions, or twelve if the first six tell too little; no dataset and no segmenter. The policy is asked
as `prompter eval` would ask it with the same options. Exit code 1: it cannot be told, or the answers
contradict how they are read; what to set instead is said.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing

from eval.answerers import build_answerer
from eval.probe.run import probe, report_text
from prompter.prompt_text import read_prompt_file
from prompter.runs.files import atomic_write
from prompter.runs.values import read_options
from recipes.commands import flags
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("policy", help="checkpoint folder or hub id, shipped:NAME, openai:URL#MODEL")
    flags.add_policy_option(parser)
    flags.add_out(parser, "JSON file for the whole report, answers included")


def run(arguments: argparse.Namespace) -> int:
    """Probe a policy and print the report. Return 0 if all is told and as it is set, else 1."""
    options = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))
    # Of a family that nobody knows, the frame is what is to be found out: it is asked in one that most speak.
    with closing(build_answerer(arguments.policy, options, assumed_frame="thousandths")) as answerer:
        report = probe(answerer)
    if arguments.out is not None:
        with atomic_write(arguments.out) as handle:
            json.dump(report.to_json(), handle, indent=1, ensure_ascii=False)
            handle.write("\n")
    tell(**report.to_json())
    print(report_text(report))
    return 0 if report.verdict.told and not report.contradictions else 1
