"""The proxy that an endpoint is reached through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as other programs.

Read once for each endpoint, because looking it up costs more than a request's share of the processor.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from indexer.errors import ConfigError
from indexer.runtime.secrets import redact


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy for an endpoint; None for none, and for this machine, which no proxy reaches.

    Raises ConfigError for a proxy that does not speak HTTP.
    """
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or _is_local(parts.hostname or "") or proxy_bypass_environment(parts.netloc.rpartition("@")[2]):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname:
        raise ConfigError(
            f"{scheme.upper()}_PROXY or ALL_PROXY: {redact(proxy)!r} is not an http or https URL",
            f"Name an HTTP proxy, or add {parts.hostname} to NO_PROXY",
        )
    return proxy


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
