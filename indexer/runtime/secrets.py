"""One TOML per deployment, validated into frozen, typed settings.

Every error is a ConfigError that names the file, the key and the remedy. Endpoints and secrets are not part of a file:
they come from the environment (`<env_prefix>_RPC_URL`, `<env_prefix>_WS_URL`) or from flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from indexer.errors import ConfigError


def secret(name: str, env: Mapping[str, str] | None = None, *, blanks: bool = False) -> str:
    """A setting that may hold a secret: the variable, or the content of the file that `<name>_FILE` names, as container
    platforms and systemd hand secrets over. "" when neither is set. `blanks`: those at its ends belong to it, so that
    of a file's only the line end is taken off.

    An empty file is refused: with a database's URL lost on the way, another database would be written to."""
    variables = os.environ if env is None else env
    value, path = variables.get(name, ""), variables.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigError(f"{name} and {name}_FILE are both set", "Unset one of them")
    if not path:
        return value
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}_FILE: {path}: {error.strerror}", "Check the path and its rights") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{name}_FILE: {path}: not UTF-8 text", "Write the value alone into the file") from None
    found = text.rstrip("\r\n") if blanks else text.strip()
    if not found:
        raise ConfigError(f"{name}_FILE: {path}: empty", f"Write the value into it, or unset {name}_FILE")
    return found


def redact(url: str) -> str:
    """A URL fit for logs: no password, no path, no query (providers put API keys there)."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<not a URL>"
    if not parts.scheme or not parts.hostname:
        return "<not a URL>"
    tail = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{tail}"
