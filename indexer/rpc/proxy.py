"""The proxy that an endpoint is reached through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as other programs.

Read once for each endpoint, because looking it up costs more than a request's share of the processor.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from yarl import URL

from indexer.errors import ConfigError
from indexer.runtime.secrets import redact


class Proxy(NamedTuple):
    """A proxy as aiohttp takes it. `url` holds no secret: it stands in errors."""

    url: str | None = None
    headers: dict[str, str] | None = None


def proxy_of(url: str) -> Proxy:
    """Return the proxy for an endpoint; none for this machine, which no proxy reaches.

    Raises ConfigError for a proxy that does not speak HTTP.
    """
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    proxies = getproxies_environment()
    text = proxies.get(scheme) or proxies.get("all")
    if not text or _is_local(parts.hostname or "") or proxy_bypass_environment(parts.netloc.rpartition("@")[2]):
        return Proxy()
    text = text if "://" in text else f"http://{text}"
    try:
        proxy = URL(text)
        if proxy.scheme not in ("http", "https") or not proxy.host or proxy.fragment:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{scheme.upper()}_PROXY or ALL_PROXY: {redact(text)!r} is not an http or https URL",
            f"Name an HTTP proxy, with / @ # : in its password as %2F %40 %23 %3A, or add {parts.hostname} to NO_PROXY",
        ) from None
    # aiohttp makes it Proxy-Authorization, for a CONNECT as well as for a plain request.
    login = {"Authorization": aiohttp.encode_basic_auth(proxy.user, proxy.password or "")} if proxy.user else None
    return Proxy(str(proxy.with_user(None)).rstrip("/"), login)


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
