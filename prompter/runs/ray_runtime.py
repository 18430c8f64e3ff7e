"""Starting Ray once, quietly, for every pool of this project (samplers and executors)."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from prompter.errors import UserError

# Read by Ray's own processes when it starts on this machine; a cluster one joins was started by others.
_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this interpreter, never a fresh environment
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an actor with num_gpus=0 must not lose the devices' names
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",  # actors do the run's main work; Ray would let everything else go first
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the switch that makes Ray listen on 127.0.0.1 alone
}


def ensure_ray(
    address: str | None = None, num_cpus: int | None = None, env_vars: Mapping[str, str] | None = None
) -> None:
    """Connect this process to Ray; do nothing if it is connected already.

    Args:
        address: of a running cluster ("auto", "host:6379", "ray://host:10001"), or None for the
            environment variable RAY_ADDRESS; where that is not set either, Ray is started on this
            machine, on 127.0.0.1, with a token that only its own processes know and without a
            dashboard, and ends with this process.
        num_cpus: logical CPUs of a Ray started here; None takes all that are there. These are tickets
            that actors reserve, not a limit on threads. Ignored when joining a cluster.
        env_vars: variables for the processes of all actors, on every node.

    Raises:
        UserError: if there is no cluster at `address`.
    """
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        return
    # Ray ends a process that has not reached the head for so long (60 s unless told otherwise), without a
    # word to its caller. `prompter.runs.ray_connection` notices sooner, and lets the run end by itself.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "3600")
    runtime_env = {"env_vars": dict(env_vars)} if env_vars else None
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        check_answers(address)
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster answers at ray.address {address!r} ({error}); "
                "start one with `ray start --head` or leave the address out."
            ) from None
        return
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        # Ray asks its callers for a token, because whoever reaches its ports can run code as this user.
        # One for this Ray alone, instead of a file in the user's home.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    _share_import_path()
    # Ray read this switch when it was imported, which may have been before the variable was set.
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env=runtime_env,
    )


def check_room(actors: int, num_cpus: float, num_gpus: float, members: str, section: str) -> None:
    """Raise UserError if a Ray on this machine alone is too small for `actors` actors of a pool.

    They would wait for ever; a cluster may grow. `num_cpus`, `num_gpus` are what each reserves,
    `members` and `section` what the message calls them and their section of the config.
    """
    import ray

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    there = ray.cluster_resources()
    for resource, key, each in (("CPU", "num_cpus", num_cpus), ("GPU", "num_gpus", num_gpus)):
        if actors * each > there.get(resource, 0):
            raise UserError(
                f"{actors} {members} of {section}.{key} {each:g} need {actors * each:g} {resource}s, but Ray "
                f"has {there.get(resource, 0):g}: lower {section}.actors or {section}.{key}"
                + (", or raise ray.num_cpus" if resource == "CPU" else "")
            )


def check_answers(address: str) -> None:
    """Knock at the address's port first: Ray itself waits for many minutes where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at ray.address {address!r} ({error}); "
            "start one with `ray start --head` or leave the address out."
        ) from None


def _share_import_path() -> None:
    """Let workers import this project even when it runs from its folder without being installed."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root in sys.path and root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
