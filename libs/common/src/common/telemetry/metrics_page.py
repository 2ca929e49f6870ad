"""The page that Prometheus reads: a port of its own, never the one that callers use, and threads of its own."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from common.telemetry.exemplars import ExemplarReader, ExemplarRegistry

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

SOCKET_TIMEOUT_S = 5
"""A scraper that sends or takes nothing for so long is let go, with its thread."""


class MetricsPage:
    """Serves what its `reader` reads, on any path, to anybody: give the port to your scraper and to nobody else."""

    def __init__(self, host: str, port: int) -> None:
        """Bind the port; 0 is any free one. Raises `OSError` for one that is taken."""
        registry = ExemplarRegistry()
        self.reader: MetricReader = ExemplarReader(registry)
        self._server = _server(host)((host, port), _Handler)
        self._server.set_app(make_wsgi_app(registry))
        self.port: int = self._server.server_port

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="metrics-page", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = SOCKET_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name for it
        """Scrapes are no news."""


def _server(host: str) -> type[ThreadingWSGIServer]:
    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def server_bind(self) -> None:
            socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the name service for the address's name
            self.server_name, self.server_port = host, self.server_address[1]
            self.setup_environ()

        def handle_error(self, *_: object) -> None:
            """A scraper that hung up is no news either."""

    return Server
