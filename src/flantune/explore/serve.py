"""The explorer on a port of this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flantune.errors import RecipeError
from flantune.explore.explorer import Explorer

HOST = "127.0.0.1"
SHUTDOWN_SECONDS = 2  # that requests under way may take to end


def require_web() -> None:
    """Raises RecipeError where the extra is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as e:
        raise RecipeError(f"the explorer needs {e.name}: pip install 'flantune[web]'") from None


def open_socket(port: int) -> socket.socket:
    """Listening on this machine alone; port 0 is any free one. Raises RecipeError where it cannot be had."""
    try:
        return socket.create_server((HOST, port))
    except OSError as e:
        raise RecipeError(
            f"--port {port}: cannot be had on {HOST}: {e.strerror or e}. Give another, or --port 0 for any free one."
        ) from None


def serve(explorer: Explorer, listening: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Answer until interrupted; `on_ready` is told the address once it can be opened. Ctrl-C returns."""
    import uvicorn

    from flantune.explore.server import make_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready(f"http://{HOST}:{listening.getsockname()[1]}/")

    config = uvicorn.Config(
        make_app(explorer),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn has closed everything by then and hands the interrupt on
        Server(config).run(sockets=[listening])


@contextmanager
def terminating() -> Iterator[None]:
    """A request to terminate ends the block like an error would, so that temporary files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def can_show_a_browser() -> bool:
    """Whether opening one would show a window; over SSH it could take over the terminal instead."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
