"""Names of what smeta makes: always the same for the same thing, and never longer than PostgreSQL keeps. Pure."""

from __future__ import annotations

import hashlib

from smeta_declare.filters import NAMEDATALEN

PREFIX = "smeta_tenant"  # every policy of ours begins with it


def object_name(*parts: str) -> str:
    """`estimates_tenant_id_project_id_fkey`; what does not fit ends with a digest of the whole."""
    name = "_".join(parts)
    if len(name.encode()) <= NAMEDATALEN:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    suffix = f"_{digest}_{parts[-1]}"
    room = NAMEDATALEN - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix
