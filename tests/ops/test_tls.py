"""TLS to PostgreSQL and to endpoints: what is right is used, what is wrong is refused, by the program as a whole."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from indexer.db.connection import connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import DatabaseUnreachableError, TransientRpcError
from indexer.rpc.endpoint import Endpoint
from tests.ops.conftest import DEBIAN_POSTGRES, program
from tests.support.daemon import environment, run
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.world import exchange
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.ops
CHAIN_ID = 89346162


class Authority:
    """A CA that lives as long as its folder, and its one certificate, for the name localhost only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.ca, self.key, self.cert = folder, folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
        ca_key, request, extensions = folder / "ca-key.pem", folder / "request.pem", folder / "extensions"
        extensions.write_text("subjectAltName = DNS:localhost\n")
        new = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout"]
        self._openssl(*new, str(ca_key), "-x509", "-days", "2", "-subj", "/CN=test authority", "-out", str(self.ca))
        self._openssl(*new, str(self.key), "-subj", "/CN=localhost", "-out", str(request))
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(ca_key), "-CAcreateserial",
            "-days", "2", "-extfile", str(extensions), "-out", str(self.cert),
        )  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([program("openssl"), *arguments], check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "other")


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[str]:
    """postgresql://user:password@{host}:port/database of Debian's PostgreSQL, which takes TLS connections only."""
    if not (DEBIAN_POSTGRES / "postgres").is_file():
        pytest.fail(f"{DEBIAN_POSTGRES}/postgres is missing: `make test-ops` installs it (.ci/ops-packages)")
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-tls-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder, DEBIAN_POSTGRES)
    server.start()
    server.ensure_database("tls")
    url = server.url("tls")
    server.stop()
    cluster = folder / "postgres"
    owner = cluster.stat()
    for source, name in ((authority.cert, "server.crt"), (authority.key, "server.key")):
        shutil.copy(source, cluster / name)
        shutil.chown(cluster / name, owner.st_uid, owner.st_gid)
        (cluster / name).chmod(0o600)
    with (cluster / "postgresql.conf").open("a") as settings:
        settings.write("ssl = on\n")
    hba = cluster / "pg_hba.conf"
    hba.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    server.start()
    yield url.replace("127.0.0.1", "{host}")
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def test_verify_full_needs_the_right_authority_and_the_right_name(
    encrypted: str, authority: Authority, other: Authority
) -> None:
    async with connection(
        f"{encrypted.format(host='localhost')}?sslmode=verify-full&sslrootcert={authority.ca}"
    ) as conn:
        assert await conn.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    refused = {
        "another authority": f"{encrypted.format(host='localhost')}?sslmode=verify-full&sslrootcert={other.ca}",
        "another name": f"{encrypted.format(host='127.0.0.1')}?sslmode=verify-full&sslrootcert={authority.ca}",
        "no TLS": f"{encrypted.format(host='localhost')}?sslmode=disable",
    }
    for why, url in refused.items():
        with pytest.raises(DatabaseUnreachableError) as caught:
            async with connection(url):
                pass
        said = "encryption" if why == "no TLS" else "certificate verify failed"
        assert said in str(caught.value), (why, str(caught.value))


async def test_verify_full_is_not_taken_back_by_a_server_without_tls(
    server: EmbeddedServer, authority: Authority
) -> None:
    plain = server.url("postgres")
    async with connection(plain):
        pass
    with pytest.raises(DatabaseUnreachableError, match="SSL"):
        async with connection(f"{plain}?sslmode=verify-full&sslrootcert={authority.ca}"):
            pass


def test_every_command_goes_over_tls(encrypted: str, authority: Authority, other: Authority) -> None:
    good = f"{encrypted.format(host='localhost')}?sslmode=verify-full&sslrootcert={authority.ca}"
    tree = Tree()
    tip = exchange(tree).grow(tree.genesis.hash, 60, random.Random("tls"), 0.5)
    with ThreadedNode(tree, tip.hash, CHAIN_ID) as node:
        node.finalized = node.safe = tip.number
        env = {"DATABASE_URL": good, "DEVNET_RPC_URL": node.url}
        for arguments in (["migrate"], ["backfill", "--from-block", "0", "--workers", "2"], ["check"]):
            done = run(*arguments, "--chain", "devnet", env=env)
            assert done.returncode == 0, done.stderr
        bad = {"DATABASE_URL": good.replace(str(authority.ca), str(other.ca))}
        for arguments in (["migrate"], ["status"]):
            done = run(*arguments, "--chain", "devnet", env=bad)
            assert done.returncode == 18 and "certificate verify failed" in done.stderr, done.stderr
    count = ["db", "exec", "--chain", "devnet", "--", "psql", "-Atc", "SELECT count(*) > 9 FROM indexer.raw_log"]
    assert run(*count, env={"DATABASE_URL": good}).stdout == "t\n"


async def test_an_endpoint_is_verified_against_the_system_or_a_private_authority(authority: Authority) -> None:
    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": hex(CHAIN_ID)})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.cert, authority.key)
    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    endpoint = Endpoint(f"https://localhost:{port}/")
    with pytest.raises(TransientRpcError, match="CERTIFICATE_VERIFY_FAILED"):
        await endpoint.call("eth_chainId", [])
    await endpoint.close()
    for host, fits in (("localhost", True), ("127.0.0.1", False)):
        done = await ask(f"https://{host}:{port}/", SSL_CERT_FILE=str(authority.ca))
        assert (done == hex(CHAIN_ID)) is fits, done
    await runner.cleanup()


ASKS = """
import asyncio, sys
from indexer.rpc.endpoint import Endpoint
async def ask():
    endpoint = Endpoint(sys.argv[1])
    print(await endpoint.call("eth_chainId", []))
    await endpoint.close()
asyncio.run(ask())
"""


async def ask(url: str, **env: str) -> str:
    """The chain id, asked for by a process with this environment; "" when it had no answer."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASKS, url, env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    return out.decode().strip()
