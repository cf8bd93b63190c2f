"""Connection strings: carried whole, printed without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

_SECRET_KEYS = frozenset({"password", "sslpassword", "oauth_client_secret"})
_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conninfo:
    """A libpq connection string (URL or key=value) and the name of the setting it comes from.

    Its text never appears in `str` or `repr`: those show user, host, port and database only.
    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """

    dsn: str = field(repr=False)
    source: str  # "environments.staging.database", "DATABASE_URL", …

    def parameters(self) -> dict[str, str]:
        """The parameters the string gives, decoded; {} where it cannot be read (libpq will say why)."""
        if re.match(r"postgres(ql)?://", self.dsn):
            return _from_url(self.dsn)
        return {
            m[1]: re.sub(r"\\(.)", r"\1", m[2] if m[2] is not None else m[3])
            for m in _PAIR.finditer(self.dsn)
        }

    def secrets(self) -> frozenset[str]:
        """Every text that must not be written anywhere: passwords as given and as decoded."""
        found = {v for k, v in self.parameters().items() if k in _SECRET_KEYS and v}
        raw = re.match(r"postgres(?:ql)?://[^@/]*?:([^@/]+)@", self.dsn)
        return frozenset(found | ({raw[1]} if raw else set()))

    def __str__(self) -> str:
        known = self.parameters()
        if service := known.get("service"):
            return f"service {service}"
        if not known:
            return "(connection string)"
        user = f"{known['user']}@" if known.get("user") else ""
        port = f":{known['port']}" if known.get("port") else ""
        return f"{user}{known.get('host') or 'localhost'}{port}/{known.get('dbname') or ''}"


def _from_url(dsn: str) -> dict[str, str]:
    try:
        url = urlsplit(dsn)
        # Several hosts (a:1,b:2) are libpq's business: keep them as one text.
        credentials, _, hosts = url.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        found = {"user": unquote(user), "password": unquote(password), "dbname": unquote(url.path[1:])}
        if re.fullmatch(r"(\[[^]]*\]|[^:,]*):\d+", hosts):
            hosts, _, found["port"] = hosts.rpartition(":")
        found["host"] = unquote(hosts)
        found |= dict(parse_qsl(url.query))
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if v}
