"""A Ray cluster: reached or begun, and the errors by which it tells that a worker is lost."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from flantune.errors import RecipeError, StateError

START_SECONDS = 300.0  # that the cluster may take to place a first worker


def joined(address: str) -> tuple[Any, bool]:
    """Ray, connected to the cluster at `address` ("local", "auto" or the head's), and whether it was connected here.

    Raises RecipeError without Ray, StateError where the cluster cannot be reached.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)
    return ray, started


def lost_errors(ray: Any) -> tuple[type[BaseException], ...]:
    """What an answer raises whose worker is gone: dead, out of memory, or out of reach."""
    known = ray.exceptions
    return known.RayActorError, known.WorkerCrashedError, known.ObjectLostError, known.OutOfMemoryError


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: it asks nobody and tells nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise RecipeError("--ray needs Ray, which is not installed here: pip install 'flantune[ray]'.") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    try:
        if named not in ("auto", "local"):
            _knock(named)
        if address == "auto":  # RAY_ADDRESS, a cluster that runs here, or a new one
            ray.init(**options)
        elif address == "local":
            ray.init(address="local", include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (RuntimeError, ValueError, OSError) as e:
        first_line = str(e).strip().split("\n")[0][:200]
        raise StateError(
            f"--ray-address {named}: no cluster could be reached: {type(e).__name__}: {first_line} Give the "
            "HOST:PORT that 'ray start --head' printed, or 'local'."
        ) from e


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise OSError(f"'{address}' is no HOST:PORT.")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
