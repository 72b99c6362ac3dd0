"""Listen, answer until a signal comes, then answer what has come and end."""

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from export.ensemble import opened_model
from export.serving.app import application
from export.serving.connection import Connection
from export.serving.guard import Access
from export.serving.limits import Limits
from export.serving.options import TOKEN, ServeOptions, checked_name, checked_token
from export.serving.service import Service
from export.streaming import RUNNERS
from toolkit.machine import cores
from toolkit.threads import opencv_in_one_thread

DRAIN = 60
"Seconds in which requests are answered after a signal."

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve_models(models: Sequence[Path], options: ServeOptions) -> None:
    """Serve the model files until Ctrl-C or SIGTERM; then take no more requests, answer those that came, and return.

    Raises KeyboardInterrupt for a second Ctrl-C, which leaves requests without an answer. Raises ValueError or OSError
    if an option, the address or a model can't be used.
    """
    name, token = checked_name(options.name, models), checked_token(options.token_file)
    with listening(options.host, options.port, token) as listener, opencv_in_one_thread():
        model = opened_model(models, options.device, options.bs, options.threads, options.tta)
        limits = Limits(options.max_mb * 10**6, options.max_pixels, options.max_photos, options.queue)
        runners = RUNNERS if model.device != "cpu" else max(1, cores() // options.threads)
        service = Service(model, name, limits, runners)
        try:
            service.batcher.start()
            _run(service, Access(token, _hosts(options.host)), listener)
        finally:
            service.ready = False
            service.batcher.close()


def listening(host: str, port: int, token: str | None) -> socket.socket:
    """A socket bound to the address; it does not accept connections yet.

    Raises ValueError for an address that other machines reach if there is no token, OSError if it can't be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host}: no address ({error}); 127.0.0.1 is this machine alone") from None
    if token is None and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise ValueError(
            f"--host {host} lets other machines ask: give --token_file FILE with a secret, or set {TOKEN}; "
            "127.0.0.1 needs none"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"--host {host} --port {port} can't be used ({error.strerror}): give another") from None
    return listener


def _hosts(host: str) -> frozenset[str]:
    return frozenset({*LOCAL, f"[{host}]" if ":" in host else host.lower()})


def _run(service: Service, access: Access, listener: socket.socket) -> None:
    config = uvicorn.Config(
        application(service, access),
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN,
    )
    server = Server(config, service, listener)
    try:
        server.run([listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again once it is done
        if server.force_exit:
            raise


class Server(uvicorn.Server):
    "uvicorn's server, which says when it listens, and that it stops as soon as a signal comes."

    def __init__(self, config: uvicorn.Config, service: Service, listener: socket.socket):
        super().__init__(config)
        self.service, self.listener = service, listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.service.ready = True
        self.service.metrics.watch("connections", "Open connections", lambda: len(self.server_state.connections))
        print(_greeting(self.service, self.listener), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.ready = False
        await super().shutdown(sockets)


def _greeting(service: Service, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return (
        f"{service.name} on {service.model.device}, batches of {service.model.bs}: {url}; "
        f"try `curl --data-binary @photo.jpg {url}/predict`, read {url}/docs; Ctrl-C ends it"
    )
