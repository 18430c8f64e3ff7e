"""This process among the ranks of a run: who leads, and what the ranks tell each other.

Rank 0 leads: it alone samples, segments, evaluates and writes the run folder. What it finds, and what goes
wrong with it, reaches the others by messages on a group of their own (gloo, over the CPU), so that ranks
can wait for a window longer than a GPU's collective may take.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from prompter.errors import InfrastructureError, UserError
from recipes.config import TrainConfig

T = TypeVar("T")

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, accelerate launch and Ray Train tell a rank by its environment."""


class RankLost(InfrastructureError):
    """A rank ended, or is silent: nothing that needs them all can be done any more."""


class Ranks:
    """The ranks of a run, as one of them sees them. Every method with a message is called by all of them.

    Args:
        rank: number of this process, from 0.
        count: of all ranks; with 1 nothing is sent.
        group: PyTorch's process group for messages; None where there is one rank.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None) -> None:
        self.rank, self.count, self._group = rank, count, group

    @property
    def leads(self) -> bool:
        """Whether this process is the one that samples, evaluates and writes."""
        return self.rank == 0

    def tell(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, where alone it runs, on all ranks.

        Raises:
            BaseException: what `action` raised on rank 0, on all ranks.
            RankLost: on the others, if rank 0 was lost.
        """
        if self.count == 1:
            return action()
        if not self.leads:
            value, error = self._broadcast(None)
            if error is not None:
                raise error
            return value
        try:
            value = action()
        except BaseException as error:
            self._broadcast((None, _sendable(error)))
            raise
        self._broadcast((value, None))
        return value

    def first(self, action: Callable[[], T]) -> T | None:
        """As `tell`, but what `action` returns stays on rank 0; the others get None, once it is done."""
        kept: list[T] = []
        self.tell(lambda: kept.append(action()))
        return kept[0] if kept else None

    def collect(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on all ranks.

        Raises:
            RankLost: if a rank was lost.
        """
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        with _no_rank_lost():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def _broadcast(self, message: Any) -> Any:
        import torch.distributed as dist

        box = [message]
        with _no_rank_lost():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


@contextmanager
def _no_rank_lost() -> Iterator[None]:
    """gloo's error where a peer has gone, as a sentence."""
    try:
        yield
    except RuntimeError as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RankLost(f"a rank of this run ended, or was silent for too long ({why})") from error


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def ranks_by_environment(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Number of this process, and of all ranks, as a launcher set them; (0, 1) where there was none.

    Raises:
        UserError: if they contradict each other.
    """
    given = os.environ if environment is None else environment
    texts = given.get("RANK", "0"), given.get("WORLD_SIZE", "1")
    if not all(text.isdecimal() for text in texts) or int(texts[0]) >= int(texts[1]):
        raise UserError(
            f"the environment says RANK={texts[0]!r} of WORLD_SIZE={texts[1]!r}: a rank is a number from 0 "
            "and less than the world's size; launch ranks with torchrun or accelerate launch, or unset both"
        )
    if int(texts[1]) > 1 and (missing := [name for name in VARIABLES[:3] if name not in given]):
        raise UserError(
            f"the environment says WORLD_SIZE={texts[1]}, but not {missing[0]}: launch ranks with torchrun "
            "or accelerate launch, or unset WORLD_SIZE"
        )
    return int(texts[0]), int(texts[1])


@contextmanager
def open_ranks(config: TrainConfig) -> Iterator[Ranks]:
    """Join the ranks that a launcher started; alone where none did.

    Raises:
        UserError: if the config asks for another number of ranks than were launched.
    """
    rank, count = ranks_by_environment()
    if count == 1:
        yield Ranks()
        return
    if config.ranks.count not in (1, count):
        raise UserError(
            f"ranks.count is {config.ranks.count}, but {count} ranks were launched (WORLD_SIZE): leave "
            "ranks.count out, or launch as many"
        )
    import torch
    import torch.distributed as dist

    patience = timedelta(seconds=config.ranks.timeout_seconds)
    joined = dist.is_initialized()  # by Ray Train
    if not joined:
        backend = process_group_backend(config, gpu=torch.cuda.is_available())
        if backend == "gloo":
            # Named "cpu:0" otherwise, under which transformers cannot restore an optimiser.
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
        else:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=patience)
    try:
        yield Ranks(rank, count, dist.new_group(backend="gloo", timeout=patience))
    finally:
        if not joined:
            dist.destroy_process_group()


def process_group_backend(config: TrainConfig, *, gpu: bool) -> str:
    """PyTorch's name of the backend that `ranks.backend` asks for.

    Args:
        config: the run.
        gpu: whether ranks have GPUs.

    Raises:
        UserError: if NCCL is asked for without GPUs.
    """
    on_gpu = gpu and not config.trainer.get("use_cpu", False)
    if config.ranks.backend == "nccl" and not on_gpu:
        raise UserError(
            "ranks.backend nccl needs a GPU for each rank: leave it out, or take gloo"
            + (", as trainer.use_cpu is set" if config.trainer.get("use_cpu") else "")
        )
    # With both, checkpoints of sharded models can be gathered on the CPU.
    return "cpu:gloo,cuda:nccl" if on_gpu and config.ranks.backend != "gloo" else "gloo"


@contextmanager
def no_rank_variables() -> Iterator[None]:
    """Hide what tells a process that it is a rank from processes that are started within."""
    hidden = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
