"""Listens, and serves the page until Ctrl-C."""

import logging
import os
import socket
from pathlib import Path

import uvicorn

from revision_jax.page.app import LOCAL, make_app
from revision_jax.page.service import Service

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; nobody is answered yet.

    Raises:
      OSError: the port is taken, or the address is not one of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        found = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen at {host}:{port}: {found}; give another --port or --host.") from error


def address(at: socket.socket) -> str:
    """What to open in a browser."""
    host, port = at.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def make_server(service: Service, at: socket.socket, folder: Path) -> uvicorn.Server:
    """A server that is not started.

    Args:
      folder: of this program's own, for uploads that come in.
    """
    host = at.getsockname()[0]
    if host not in LOCAL:
        log.warning("who reaches %s may ask, upload, and see the videos: there is no password", address(at))
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "incoming")  # the only way to tell Gradio
    return uvicorn.Server(uvicorn.Config(make_app(service, host), log_level="error", timeout_graceful_shutdown=3))


def serve(service: Service, at: socket.socket, folder: Path) -> None:
    """Serves until Ctrl-C; what is being searched then ends first."""
    try:
        make_server(service, at, folder).run(sockets=[at])
    except KeyboardInterrupt:
        pass
    finally:
        service.line.close()
