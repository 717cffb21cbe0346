"""The database and the endpoint that the cells of the matrix start from, and copies for causes that change it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator

from indexer.embedded_pg.server import EmbeddedServer
from tests.matrix.causes import Place, with_url
from tests.support.anvil.node import AnvilNode
from tests.support.daemon import run
from tests.support.postgres import execute


@contextlib.contextmanager
def prepared(server: EmbeddedServer) -> Iterator[Place]:
    """A place whose database is bound, migrated and filled."""
    names, roles = list[str](), list[str]()
    admin = server.url("postgres")

    def copy(*statements: str, empty: bool = False, encoding: str = "") -> str:
        """The URL of a copy in which the statements were executed; of the role, if one of them makes {role}."""
        name, role = f"matrix_{uuid.uuid4().hex[:8]}", f"matrix_{uuid.uuid4().hex[:8]}"
        names.append(name)
        template = f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0" if encoding else "TEMPLATE matrix"
        asyncio.run(execute(admin, f"CREATE DATABASE {name} {'' if empty else template}"))
        filled = [statement.format(database=name, role=role) for statement in statements]
        asyncio.run(execute(server.url(name), *filled))
        if not any(role in statement for statement in filled):
            return server.url(name)
        roles.append(role)
        return with_url(server.url(name), user=role, password="low")

    def drop_copies() -> None:
        while names:
            asyncio.run(execute(admin, f"DROP DATABASE {names.pop()} WITH (FORCE)"))
        while roles:
            asyncio.run(execute(admin, f"DROP ROLE {roles.pop()}"))

    server.ensure_database("matrix")
    with AnvilNode() as node:
        node.mine(30)
        done = run("backfill", "--from-block", "0", "--rpc-url", node.url, env={"DATABASE_URL": server.url("matrix")})
        assert done.returncode == 0, done.stderr
        try:
            yield Place(
                server.url("matrix"), node.url, copy, lambda: [server.url(name) for name in ("matrix", *names)],
                drop_copies,
            )  # fmt: skip
        finally:
            drop_copies()
            asyncio.run(execute(admin, "DROP DATABASE matrix WITH (FORCE)"))
