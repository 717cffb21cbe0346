"""Causes outside of the program that a command may meet: each is made for real, and says how the commands end."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.truth import CONFIG
from tests.matrix.commands import CHAIN, DATABASE, EMBEDDED, ENDPOINT, OUTPUT
from tests.support.anvil.node import AnvilNode, free_port

ANY = "any"


@dataclass
class Place:
    """Where the commands run: a bound and migrated database, an endpoint, and what a cause makes of both.

    `copy` runs SQL as the superuser in a copy of the good database, and returns its URL. `databases`: URLs of all.
    `drop_copies`: what a cause made goes with it; the next one compares only what it can reach.
    """

    good_url: str
    node_url: str
    copy: Callable[..., str]
    databases: Callable[[], list[str]]
    drop_copies: Callable[[], None]


@dataclass
class Setting:
    """How a command is started under a cause: variables, flags, and what its streams and its process are."""

    env: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    shell: str = "exec {}"
    cwd: str | None = None
    user: int | None = None


Made = Callable[[Place], AbstractContextManager[Setting]]


@dataclass
class Cause:
    """One cause. `needs`: which commands it concerns. `code`, `words`: how they end, and what their line says.

    `others`: commands that end otherwise, by exit code; or the reason why the cause cannot reach them.
    `waits`: the daemon and the backfill wait for it to pass, under a name with these words.
    """

    name: str
    needs: str
    code: int
    words: tuple[str, ...]
    made: Made
    others: Mapping[str, int | str] = field(default_factory=dict)
    waits: str = ""


CAUSES: list[Cause] = []


def cause(
    needs: str, code: int, *words: str, others: Mapping[str, int | str] | None = None, waits: str = ""
) -> Callable[[Callable[[Place], Iterator[Setting]]], None]:
    """Register a generator that makes a cause for as long as it is suspended."""

    def register(made: Callable[[Place], Iterator[Setting]]) -> None:
        name = made.__name__.replace("_", " ")
        CAUSES.append(Cause(name, needs, code, words, contextlib.contextmanager(made), others or {}, waits))

    return register


def with_url(url: str, **parts: Any) -> str:
    """The URL with another user, password, host, port, database or query."""
    split = urlsplit(url)
    user = parts.get("user", split.username)
    password = parts.get("password", split.password)
    host, port = parts.get("host", split.hostname), parts.get("port", split.port)
    query = f"?{parts['query']}" if "query" in parts else ""
    return f"postgresql://{user}:{password}@{host}:{port}/{parts.get('database', split.path[1:])}{query}"


# -- the database


@cause(DATABASE, 18, "127.0.0.1", "Connect call failed", "DATABASE_URL")
def nothing_listens_at_the_database(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, port=free_port())})


@cause(DATABASE, 18, "127.0.0.1", waits="does not answer in time")
def a_database_that_never_answers(place: Place) -> Iterator[Setting]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        port = listening.getsockname()[1]
        yield Setting({"DATABASE_URL": with_url(place.good_url, port=port, query="connect_timeout=2")})


@cause(DATABASE, 18, "127.0.0.1")
def another_service_at_the_databases_port(place: Place) -> Iterator[Setting]:
    with greeting(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        yield Setting({"DATABASE_URL": with_url(place.good_url, port=port)})


@cause(DATABASE, 18, "db.invalid", "DATABASE_URL")
def a_host_name_that_nobody_knows(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, host="db.invalid")})


@cause(DATABASE, 18, "password", "pg_hba.conf")
def a_wrong_password(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, password="hunter2")})


@cause(DATABASE, 18, "nobody_of_that_name", "pg_hba.conf")
def a_role_that_does_not_exist(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, user="nobody_of_that_name")})


@cause(DATABASE, 18, "absent", "Make the database")
def a_database_that_does_not_exist(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, database="absent")})


@cause(DATABASE, 18, "permission denied for database")
def no_right_to_connect(place: Place) -> Iterator[Setting]:
    url = place.copy("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", "CREATE ROLE {role} LOGIN PASSWORD 'low'")
    yield Setting({"DATABASE_URL": url})


@cause(DATABASE, 18, "too many connections", "max_connections", waits="out of connections")
def no_connection_left_for_the_role(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("CREATE ROLE {role} LOGIN PASSWORD 'low' CONNECTION LIMIT 0")})


@cause(DATABASE, 18, "LATIN1", "ENCODING 'UTF8'")
def an_encoding_that_cannot_hold_every_name(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy(encoding="LATIN1")})


@cause(DATABASE, 18, "colour", "Remove or correct that parameter")
def an_unknown_parameter_of_the_url(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, query="colour=blue")})


@cause(DATABASE, 18, "service", "Write host, port and database")
def a_parameter_that_is_refused(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, query="service=elsewhere")})


@cause(DATABASE, 18, "target_session_attrs", "Promote a host", waits="no host with the demanded target_session_attrs")
def no_host_that_is_a_standby(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, query="target_session_attrs=standby")})


@cause(DATABASE, 18, "127.0.0.1")
def a_server_without_tls(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": with_url(place.good_url, query="sslmode=require")})


@cause(DATABASE, 18, "a valid URL|DATABASE_URL")
def a_url_that_nobody_can_read(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": "postgresql://user:pass/word@127.0.0.1:x/database"})


@cause(DATABASE, 10, "DATABASE_URL_FILE", "Check the path")
def a_secret_file_that_is_not_there(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL_FILE": "/nowhere/database_url"})


@cause(DATABASE, 10, "DATABASE_URL", "both set")
def a_secret_that_is_set_twice(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.good_url, "DATABASE_URL_FILE": "/dev/null"})


@cause(DATABASE, 13, "public.users does not belong")
def tables_of_another_program(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("CREATE TABLE public.users (id int)", empty=True)})


@cause(DATABASE, 15, "9999", "newer")
def a_schema_of_a_newer_release(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("UPDATE indexer.alembic_version SET version_num = '9999'")})


@cause(DATABASE, 16, "migrate", others={"migrate": "it is what migrates", "db roles": "it suits every release"})
def a_schema_of_an_older_release(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("UPDATE indexer.alembic_version SET version_num = '0001'")})


@cause(
    DATABASE,
    14,
    "reya",
    "cronos",
    others={"migrate": "a schema belongs to no deployment", "db roles": "roles belong to no deployment"},
)
def a_database_of_another_deployment(place: Place) -> Iterator[Setting]:
    with AnvilNode(chain_id=89346162) as node:
        node.mine(30)
        yield Setting({"DATABASE_URL": place.copy(), "CRONOS_RPC_URL": node.url}, ("--chain", "cronos"))


@cause(DATABASE, 24, "permission denied", "db roles|role")
def a_role_without_any_right(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("CREATE ROLE {role} LOGIN PASSWORD 'low'")})


@cause(
    DATABASE,
    24,
    "checkpoint",
    "migrate --check",
    others={"run": "halts: tests/scenarios/test_intercepted.py", "migrate": "the revision is current"}
    | dict.fromkeys(
        (
            "endpoints",
            "incidents list",
            "incidents close",
            "reorg list",
            "reorg show",
            "db roles",
            "stream bootstrap",
            "stream create",
            "stream drop",
            "stream pause",
            "stream resume",
            "stream status",
        ),
        "reads no such table",
    ),
)
def a_table_that_somebody_renamed(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("ALTER TABLE indexer.checkpoint RENAME TO checkpoint_of_before")})


@cause(
    DATABASE,
    18,
    "read-only",
    waits="read-only",
    others=dict.fromkeys(
        (
            "check",
            "status",
            "endpoints",
            "incidents list",
            "reorg list",
            "reorg show",
            "reorg status",
            "reorg plan",
            "reorg verify",
            "migrate",
            "db roles",
            "verify",
            "enrich",
            "stream bootstrap",
            "stream drop",
            "stream pause",
            "stream resume",
            "stream status",
        ),
        "it only reads, or finds nothing to write",
    ),
)
def a_database_that_is_read_only(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.copy("ALTER DATABASE {database} SET default_transaction_read_only = on")})


# -- the endpoint


@cause(ENDPOINT, 10, "REYA_RPC_URL", "--rpc-url", others={"doctor": 36})
def no_endpoint_at_all(place: Place) -> Iterator[Setting]:
    yield Setting({"REYA_RPC_URL": ""})


@cause(ENDPOINT, 11, "127.0.0.1")
def nothing_listens_at_the_endpoint(place: Place) -> Iterator[Setting]:
    yield Setting({"REYA_RPC_URL": f"http://127.0.0.1:{free_port()}/KEYKEYKEYKEYKEYKEY"})


@cause(ENDPOINT, 12, "31337", "1729")
def an_endpoint_of_another_chain(place: Place) -> Iterator[Setting]:
    with AnvilNode(chain_id=31337) as node:
        yield Setting({"REYA_RPC_URL": node.url})


@cause(ENDPOINT, 11, "127.0.0.1")
def a_web_page_at_the_endpoint(place: Place) -> Iterator[Setting]:
    with answering(200, "<html>hello</html>") as url:
        yield Setting({"REYA_RPC_URL": url})


@cause(ENDPOINT, 11, "401")
def an_endpoint_that_wants_another_key(place: Place) -> Iterator[Setting]:
    with answering(401, '{"error":"invalid api key"}') as url:
        yield Setting({"REYA_RPC_URL": url})


@cause(ENDPOINT, 10, "REYA_RPC_URL")
def an_endpoint_that_is_no_url(place: Place) -> Iterator[Setting]:
    yield Setting({"REYA_RPC_URL": "node.example"})


@cause(ENDPOINT, 10, "socks5", "NO_PROXY")
def a_proxy_that_does_not_speak_http(place: Place) -> Iterator[Setting]:
    yield Setting({"REYA_RPC_URL": "http://node.example", "HTTP_PROXY": "socks5://127.0.0.1:1"})


# -- the configuration


@cause(CHAIN, 10, "nowhere", "config")
def a_deployment_that_is_not_there(place: Place) -> Iterator[Setting]:
    yield Setting(flags=("--chain", "nowhere"))


@cause(CHAIN, 10, "broken.toml", "line")
def a_deployment_that_is_no_toml(place: Place) -> Iterator[Setting]:
    with file("broken.toml", b"name = \n") as path:
        yield Setting(flags=("--chain", path))


@cause(CHAIN, 10, "utf16.toml", "UTF-8")
def a_deployment_in_another_encoding(place: Place) -> Iterator[Setting]:
    with file("utf16.toml", 'name = "x"\n'.encode("utf-16")) as path:
        yield Setting(flags=("--chain", path))


@cause(CHAIN, 10, "odd.toml", "chain_id")
def a_deployment_with_an_odd_value(place: Place) -> Iterator[Setting]:
    odd = re.sub(rb"(?m)^chain_id = .*$", b"chain_id = -1", CONFIG.read_bytes())
    with file("odd.toml", odd) as path:
        yield Setting(flags=("--chain", path))


@cause(CHAIN, 10, "config|directory", "Is a directory|directory")
def a_deployment_that_is_a_folder(place: Place) -> Iterator[Setting]:
    with tempfile.TemporaryDirectory(suffix=".toml") as folder:
        yield Setting(flags=("--chain", folder))


# -- the shell and the machine


@cause(
    ANY,
    2,
    "No such option",
    others=dict.fromkeys(("db exec", "db psql"), "what it does not know belongs to the other program"),
)
def a_flag_that_does_not_exist(place: Place) -> Iterator[Setting]:
    yield Setting(flags=("--nonsense",))


@cause(OUTPUT, 1, "stdout: No space left on device", "Free some space")
def a_full_disk_behind_stdout(place: Place) -> Iterator[Setting]:
    yield Setting(shell="exec {} > /dev/full")


@cause(OUTPUT, 0)
def a_closed_stdout(place: Place) -> Iterator[Setting]:
    yield Setting(shell="exec {} >&-")


@cause(OUTPUT, 141)
def a_reader_of_stdout_that_is_gone(place: Place) -> Iterator[Setting]:
    yield Setting(shell="{} | :; exit ${PIPESTATUS[0]}")


@cause(
    EMBEDDED,
    19,
    "DATABASE_URL is set",
    "Unset DATABASE_URL",
    others={"db status": "it tells of the embedded server all the same"},
)
def a_server_that_is_not_the_embedded_one(place: Place) -> Iterator[Setting]:
    yield Setting({"DATABASE_URL": place.good_url})


@cause(EMBEDDED, 2, "--data-dir", "is a file")
def a_data_folder_that_is_a_file(place: Place) -> Iterator[Setting]:
    with file("data", b"") as path:
        yield Setting({"DATABASE_URL": ""}, ("--data-dir", path))


@contextlib.contextmanager
def file(name: str, content: bytes) -> Iterator[str]:
    """A file with this content, which everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / name
        path.write_bytes(content)
        yield str(path)


@contextlib.contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A web server that answers everything with this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def greeting(words: bytes) -> Iterator[int]:
    """A server that says this to everybody and hangs up; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(words)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
