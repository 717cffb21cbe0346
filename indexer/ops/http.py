"""/live, /ready and /metrics."""

from __future__ import annotations

import errno

from aiohttp import web

from indexer.errors import PortInUse
from indexer.follow.progress import Progress
from indexer.ops import metrics
from indexer.rpc.pool import Pool


def application(progress: Progress, pool: Pool) -> web.Application:
    """/live: the process answers. /ready: 200 when the rows are fresh, else 503 with the reasons. /metrics."""
    collected = metrics.registry(progress, pool)

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        reasons = progress.not_ready()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(collected), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/live", live), web.get("/ready", ready), web.get("/metrics", metrics_page)])
    return app


async def serve(host: str, port: int, progress: Progress, pool: Pool) -> web.AppRunner:
    """Serves until `cleanup()`. Raises PortInUse."""
    runner = web.AppRunner(application(progress, pool), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        raise PortInUse(
            f"--http-port: {host}:{port} cannot be bound: {error.strerror or error}",
            "Stop the other process or name another port; 0 serves none",
        ) from error
    return runner
