"""Settings that may hold a secret: read from the environment or a file, and redacted before they are shown.

Every error is a ConfigError that names the variable or file and the remedy; no error contains the secret.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from indexer.errors import ConfigError


def secret(name: str, env: Mapping[str, str] | None = None, *, blanks: bool = False) -> str:
    """Return a setting that may hold a secret: the variable, or the content of the file that `<name>_FILE` names.

    Container platforms and systemd hand over secrets in such files. Returns "" if neither is set. `blanks`: leading and
    trailing blanks and quotes are part of the value, so only the line end of a file is stripped.

    Raises ConfigError, also for an empty file: if the URL of a database got lost on the way, another database would be
    written to.
    """
    variables = os.environ if env is None else env
    value, path = variables.get(name, ""), variables.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigError(f"{name} and {name}_FILE are both set", "Unset one of them")
    if not path:
        if value and not blanks and not unquoted(value):
            raise ConfigError(f"{name}: empty but for blanks or quotes", f"Write the value, or unset {name}")
        return value if blanks else unquoted(value)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Editors of Windows begin it with a byte order mark.
    except OSError as error:
        raise ConfigError(f"{name}_FILE: {path}: {error.strerror}", "Check the path and its permissions") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{name}_FILE: {path}: not UTF-8 text", "The file must contain only the value") from None
    value = text.rstrip("\r\n") if blanks else unquoted(text)
    if not value:
        raise ConfigError(f"{name}_FILE: {path}: empty", f"Write the value to the file, or unset {name}_FILE")
    if env is None:
        _origins.update({entry: (name, position) for position, entry in enumerate(listed(value))} | {value: (name, 0)})
    return value


# By value read from a file, and by each entry of a list of URLs: the variable that names the file, and the position.
_origins: dict[str, tuple[str, int]] = {}


def current(url: str) -> str:
    """Return a URL as its file has it now: passwords and keys are rotated while programs run.

    Only what is secret in it may change. If the file names another host or database now, or cannot be read, the URL is
    returned as it was: what a process works on was checked when it started.
    """
    name, position = _origins.get(url, ("", 0))
    if not name:
        return url
    try:
        value = secret(name)
    except ConfigError:
        return url
    if name == "DATABASE_URL":
        return value if _place(value) == _place(url) else url
    entries = listed(value)
    return entries[position] if position < len(entries) and redact(entries[position]) == redact(url) else url


def _place(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url
    return parts.netloc.rpartition("@")[2], parts.path


def remember_files() -> None:
    """Read every secret that the environment names a file for, so that `current` knows where it came from."""
    for variable in os.environ:
        if variable.endswith("_URL_FILE"):
            with contextlib.suppress(ConfigError):
                secret(variable.removesuffix("_FILE"))


def listed(value: str) -> list[str]:
    """Return the URLs of a list that is separated by commas or line breaks."""
    return [entry for part in re.split(r"[,\n]", value) if (entry := unquoted(part))]


def unquoted(text: str) -> str:
    """Return the text without blanks around it and without the quotes that a shell would have removed.

    Files of variables are also read by programs that take quotes literally (docker --env-file).
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def redact(url: str) -> str:
    """Return a URL fit for logs: no password, no path, no query (providers put API keys there)."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<not a URL>"
    if not parts.scheme or not parts.hostname:
        return "<not a URL>"
    tail = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname}{port}{tail}"
