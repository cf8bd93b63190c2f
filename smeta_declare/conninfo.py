"""Connection strings: carried whole, printed without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

_SECRET_KEYS = frozenset({"password", "sslpassword", "oauth_client_secret"})
_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))")


# user:password@ · hosts · /database · ?parameters
_URL = re.compile(r"postgres(?:ql)?://(?:([^@/]*)@)?([^/?]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL)
_IN_QUERY = re.compile(rf"[?&](?:{'|'.join(sorted(_SECRET_KEYS))})=([^&]+)")


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
        if raw := re.match(r"postgres(?:ql)?://[^@/:]*:([^@/]+)@", self.dsn):
            found.add(raw[1])
        if self.garbled and (whole := re.match(r"postgres(?:ql)?://(.*)@", self.dsn, re.DOTALL)):
            # Wherever the password begins and ends, every piece of it is a secret.
            found |= {piece for piece in re.split(r"[:/@?#]", whole[1]) if len(piece) > 2} | {whole[1]}
        return frozenset(found | set(_IN_QUERY.findall(self.dsn)))

    @property
    def garbled(self) -> bool:
        """Whether a password runs into what stands beside it, so that nobody can say where it ends."""
        known = self.parameters()
        if not re.match(r"postgres(ql)?://", self.dsn):
            return bool(
                _PAIR.sub("", self.dsn).strip()
            )  # what is left is no key=value: perhaps of a password
        host, rest = known.get("host", ""), known.get("dbname", "") + known.get("user", "")
        ports = re.sub(r"\[[^]]*\]", "", host)  # several hosts, each perhaps with a port: a:1,b:2
        return "@" in host + rest or any(
            part.partition(":")[2] and not part.partition(":")[2].isdigit() for part in ports.split(",")
        )

    def __str__(self) -> str:
        known = self.parameters()
        if self.garbled:
            return "(connection string)"
        if service := known.get("service"):
            return f"service {service}"
        if not known:
            return "(connection string)"
        user = f"{known['user']}@" if known.get("user") else ""
        port = f":{known['port']}" if known.get("port") else ""
        return f"{user}{known.get('host') or 'localhost'}{port}/{known.get('dbname') or ''}"


def _from_url(dsn: str) -> dict[str, str]:
    """As libpq reads it, not as browsers do: `#` and `?` may stand in a password, `+` is no blank."""
    found_parts = _URL.fullmatch(dsn)
    if found_parts is None:
        return {}
    credentials, hosts, database, query = (part or "" for part in found_parts.groups())
    user, _, password = credentials.partition(":")
    found = {"user": unquote(user), "password": unquote(password), "dbname": unquote(database)}
    # Several hosts (a:1,b:2) are libpq's business: keep them as one text.
    if re.fullmatch(r"(\[[^]]*\]|[^:,]*):\d+", hosts):
        hosts, _, found["port"] = hosts.rpartition(":")
    found["host"] = unquote(hosts)
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        found[unquote(key)] = unquote(value)
    return {k: v for k, v in found.items() if v}
