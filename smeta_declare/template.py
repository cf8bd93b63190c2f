"""Templates of SQL: text and variables in, SQL out that knows where it came from. Pure.

A file without a single `{{`, `{%` or `{#` is its own result and costs nothing: Jinja is for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from smeta_declare.rendered import Rendered, Secret, SecretSlot, Value, normalise
from smeta_declare.statement import check_tokens

__all__ = [
    "Rendered",
    "Secret",
    "SecretSlot",
    "Value",
    "check_tokens",
    "normalise",
    "render",
    "scram_verifier",
]


def render(
    source: str, *, name: str, variables: Mapping[str, Value], load: Callable[[str], str | None]
) -> Rendered:
    """The SQL of a template: the same source, variables and includes give the same bytes for ever.

    `name` is the file named in errors; `load` gives the text of an included file, None when there is none.
    """
    text = normalise(source)
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return Rendered.kept(text, name=name)
    from smeta_declare.sandbox import render_template

    return render_template(text, name=name, variables=variables, load=load)


def scram_verifier(password: str, *, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL stores for a password, so that the password itself is never sent or logged.

    https://www.postgresql.org/docs/current/catalog-pg-authid.html, RFC 5803.
    """
    import hmac
    from base64 import b64encode
    from hashlib import pbkdf2_hmac, sha256

    salted = pbkdf2_hmac("sha256", _saslprep(password).encode(), salt, iterations)
    stored_key = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded_salt, stored, server = (b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{encoded_salt}${stored}:{server}"


def _saslprep(password: str) -> str:
    """RFC 4013 as in PostgreSQL's saslprep.c, which looks for forbidden characters before it normalises.

    A password that is not allowed is used as it is: the server and libpq do the same.
    """
    import stringprep as table
    from unicodedata import normalize

    if password.isascii():
        return password
    spaced = (" " if table.in_table_c12(c) else c for c in password)
    mapped = [c for c in spaced if not table.in_table_b1(c)]
    right_to_left = [table.in_table_d1(c) for c in mapped]
    forbidden = (
        not mapped
        or any(table.in_table_c21_c22(c) or table.in_table_a1(c) for c in mapped)
        or any(
            in_table(c)
            for in_table in (
                table.in_table_c3,
                table.in_table_c4,
                table.in_table_c5,
                table.in_table_c6,
                table.in_table_c7,
                table.in_table_c8,
                table.in_table_c9,
            )
            for c in mapped
        )
        or (
            any(right_to_left)
            and (any(map(table.in_table_d2, mapped)) or not right_to_left[0] or not right_to_left[-1])
        )
    )
    return password if forbidden else normalize("NFKC", "".join(mapped))
