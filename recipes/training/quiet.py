"""Silence what the libraries say to developers."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Silence what the libraries say to developers; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # TRL imports vLLM where it is installed
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for name in (
        "transformers",
        "trl",
        "trl.trainer.grpo_trainer",
        "accelerate",
        "peft",
        "torch.utils.cpp_extension",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
