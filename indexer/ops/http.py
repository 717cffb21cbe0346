"""The HTTP server of the daemon: /live, /ready, /status, /metrics, and the status page at /."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import socket
from importlib.resources import files

from aiohttp import web

from indexer.errors import ConfigError, PortInUseError
from indexer.ops import metrics
from indexer.ops.live_status import LiveStatus

PAGE = files("indexer.ops").joinpath("page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """Return the CSP source expression that allows the page's only inline element with this tag, and nothing else."""
    (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"


# The page can load, frame, send or run nothing from other origins, whatever a node or the chain makes it show.
POLICY = (
    f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(live: LiveStatus) -> web.Application:
    """Return the web application of a running daemon.

    /live: the process answers. /ready: 200 when the rows are fresh, else 503 with the reasons. /status: the document of
    `reya-indexer status --json`, with what only the process knows.
    """
    collected = metrics.registry(live)

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        reasons = live.progress.reasons_not_ready()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def status(_: web.Request) -> web.Response:
        return web.json_response(await live.document())

    async def metrics_page(_: web.Request) -> web.Response:
        await live.refresh()
        return web.Response(body=metrics.render(collected), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html", charset="utf-8")

    async def with_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    app = web.Application(client_max_size=1024)
    app.on_response_prepare.append(with_headers)
    app.add_routes(
        [
            web.get("/", page),
            web.get("/live", alive),
            web.get("/ready", ready),
            web.get("/status", status),
            web.get("/metrics", metrics_page),
        ]
    )
    return app


async def serve(host: str, port: int, live: LiveStatus) -> web.AppRunner:
    """Start the server and return its runner, which serves until `cleanup()`. Raises PortInUseError, ConfigError."""
    runner = web.AppRunner(application(live), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        if isinstance(error, socket.gaierror):
            raise ConfigError(f"--http-host {host}: {error.strerror}", "Name an address of this machine") from error
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        raise PortInUseError(
            f"--http-port: cannot bind {host}:{port}: {error.strerror or error}",
            "Stop the other process, or choose another port; 0 disables HTTP",
        ) from error
    return runner
