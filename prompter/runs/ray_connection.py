"""Whether the Ray that this process is connected to is still there.

Ray answers that question by ending the process: at once when the daemon of this node is gone and something
is asked of it, and `gcs_rpc_server_reconnect_timeout_s` after the head's control service (GCS) went. A run
would end without a sentence and without the checkpoint it could still write. So the two are knocked at
from here, in good time (`prompter.runs.ray_runtime` puts Ray's own end off).
"""

from __future__ import annotations

import socket
import time
from typing import ClassVar

import ray
from ray.util.client import ray as ray_client

from prompter.errors import InfrastructureError


class RayConnection:
    """Watches Ray's two services, cheaply enough to be asked before everything that is asked of Ray.

    Args:
        head: "host:port" of the control service, or None where it cannot be reached from here.
        daemon: path of the Unix socket of this node's daemon, or None where there is none to watch.

    Attributes:
        lost: why they count as gone, "" while they do not; then nothing may be asked of Ray any more.
    """

    EVERY_SECONDS: ClassVar[float] = 0.2
    """How often the daemon is knocked at, and the head ten times less often; between that, what was found
    last is taken to hold."""

    GRACE_SECONDS: ClassVar[float] = 20.0
    """How long the head may be silent: one that keeps its state elsewhere (Redis) comes back."""

    lost: ClassVar[str] = ""  # of the process: it is connected to one Ray

    def __init__(self, head: str | None, daemon: str | None) -> None:
        self._head, self._daemon = head, daemon
        self._looked = self._looked_at_head = time.monotonic()
        self._silent_since: float | None = None

    @classmethod
    def of_this_process(cls) -> RayConnection:
        """The connection that `ray.init` made; through a Ray client ("ray://…") there is nothing to watch."""
        if ray_client.is_connected():
            return cls(None, None)
        node = ray._private.worker.global_worker.node
        daemon = None if node is None else node.raylet_socket_name
        head = ray.get_runtime_context().gcs_address
        return cls(head if _listens(head) else None, daemon)

    def check(self, *, now: bool = False) -> None:
        """Return if Ray is there, or may come back.

        Args:
            now: knock at the daemon however short ago that was.

        Raises:
            InfrastructureError: if it is gone.
        """
        moment = time.monotonic()
        if not (now or self.lost) and moment - self._looked < self.EVERY_SECONDS:
            return
        self._looked = moment
        if self.lost:
            self._give_up(self.lost)
        if self._daemon is not None and not _listens(self._daemon):
            self._give_up("its daemon on this machine (raylet) is gone")
        if self._head is None or moment - self._looked_at_head < 10 * self.EVERY_SECONDS:
            return
        self._looked_at_head = moment
        if _listens(self._head):
            self._silent_since = None
            return
        self._silent_since = moment if self._silent_since is None else self._silent_since
        if moment - self._silent_since >= self.GRACE_SECONDS:
            self._give_up(f"its head at {self._head} has not answered for {self.GRACE_SECONDS:g} s")

    def _give_up(self, reason: str) -> None:
        RayConnection.lost = reason
        raise InfrastructureError(f"the connection to Ray is lost: {reason}")


def _listens(address: str) -> bool:
    """Whether somebody accepts connections at a path of a Unix socket or at "host:port"."""
    try:
        if "/" in address:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                one.connect(address)
            return True
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
