"""The filters of templates: four make SQL of a value, the others are Jinja's safe and repeatable ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeAlias

from jinja2 import Undefined
from jinja2.filters import FILTERS as JINJA
from jinja2.runtime import Context
from jinja2.utils import pass_context

from smeta_declare.parsetree import quoted
from smeta_declare.rendered import Kind, Span

SECRETS = "write {{ …|literal }} or {{ …|scram }}; the value is filled in when the statement is sent"

_Part: TypeAlias = tuple[str, Kind, str | None]  # text, kind, name of a secret

NAMEDATALEN = 63  # bytes of an identifier; PostgreSQL silently cuts longer ones


class Refused(Exception):
    """A template asks for something it must not have; the place is known to whoever catches it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Sql(str):
    """Text with its origins. Whatever a template does to it gives a plain `str`, which nobody trusts."""

    spans: tuple[Span, ...]


class SecretSql(Sql):
    """Text with the placeholder of a secret in it: nothing may be cut out of it."""

    def __getitem__(self, key: object) -> NoReturn:  # Jinja writes slices as Python's, past its own hooks
        raise Refused("a secret has no parts", hint=SECRETS)


def sql(text: str, spans: tuple[Span, ...]) -> Sql:
    """The only way to make either."""
    new = (SecretSql if any(span.secret for span in spans) else Sql)(text)
    new.spans = spans
    return new


class LateBound:
    """A secret inside a template: it can be passed on, and written by two filters; nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self, *_: object) -> NoReturn:
        raise Refused(
            f"secret {self.name} is not known while rendering",
            hint=SECRETS,
        )

    __str__ = __bool__ = __eq__ = __ne__ = __lt__ = __gt__ = __iter__ = __len__ = _refuse
    __hash__ = object.__hash__


def is_secret(value: object) -> bool:
    """A secret, or text that already holds its placeholder: neither may be looked into."""
    return isinstance(value, SecretSql | LateBound)


def scalar(value: object) -> str:
    """The text of a string or number; anything else has no text that is the same on every machine."""
    if is_secret(value):
        raise Refused("a secret cannot be changed or put together", hint=SECRETS)
    if isinstance(value, str | int | float | Undefined):
        return str(value)  # raises for a variable that does not exist
    raise Refused("none is no text" if value is None else f"a {type(value).__name__} is no text")


# What makes SQL of a value


def ident(value: object) -> Sql:
    """A name as an identifier, quoted where PostgreSQL needs it; several names with commas between them.

    A dot is part of the name: write `{{ schema|ident }}.{{ table|ident }}`.
    """
    return _listed(value, _name, what="an identifier")


def literal(value: object) -> Sql:
    """A value as a constant; several with commas between them."""
    return _listed(value, _constant, what="a literal")


def raw(value: object) -> Sql:
    """SQL the author vouches for: it goes in as it is."""
    text = scalar(value)
    return value if isinstance(value, Sql) else sql(text, (Span(0, "", 0, "raw"),))


def scram(value: object) -> Sql:
    """The verifier of a secret password, computed when the statement is sent: the password is never sent."""
    if not isinstance(value, LateBound):
        raise Refused("scram is for secrets", hint="declare the variable as {secret: NAME}")
    return sql(f"'<scram {value.name}>'", (Span(0, "", 0, "scram", value.name),))


def _listed(value: object, one: Callable[[object], list[_Part]], *, what: str) -> Sql:
    many = list(value) if isinstance(value, list | tuple | Iterator) else None
    if many == []:
        raise Refused(f"an empty list cannot be {what}", hint="test it with {% if … %} first")
    text = ""
    spans: list[Span] = []
    for number, element in enumerate([value] if many is None else many):
        if number:
            spans.append(Span(len(text), "", 0, "constant"))
            text += ", "
        for part, kind, secret in one(element):
            spans.append(Span(len(text), "", 0, kind, secret))
            text += part
    return sql(text, tuple(spans))


def _name(value: object) -> list[_Part]:
    name = scalar(value)
    if not isinstance(value, str):
        raise Refused(f"{name!r} is no name")
    if not name or "\0" in name:
        raise Refused("a name must not be empty or contain NUL")
    if len(name.encode()) > NAMEDATALEN:
        raise Refused(
            f"{name!r} has {len(name.encode())} bytes as a name",
            hint=f"PostgreSQL would cut it after {NAMEDATALEN} bytes without saying so",
        )
    return [(quoted(name), "ident", None)]


def _constant(value: object) -> list[_Part]:
    kind: Kind = "literal"
    match value:
        case LateBound():
            return [(f"'<secret {value.name}>'", kind, value.name)]
        case None:
            return [("null", kind, None)]
        case bool():
            return [("true" if value else "false", kind, None)]
        case float() if not math.isfinite(value):
            raise Refused(
                f"{value} has no literal", hint="write 'NaN'::float8 or 'Infinity'::float8 in the SQL"
            )
        case int() | float():
            digits = str(value)
            # A minus is a token of its own, and `-{{ v }}` would start a comment.
            if digits.startswith("-"):
                return [("(-", "constant", None), (digits[1:], kind, None), (")", "constant", None)]
            return [(digits, kind, None)]
        case Undefined() if not str(value):
            raise Refused("the value is undefined: an `if` in the expression has no `else`")
        case _:
            # Doubling quotes is enough: standard_conforming_strings is on and no file may change it.
            return [("'" + scalar(value).replace("'", "''") + "'", kind, None)]


# The rest


def _replace(context: Context, value: object, old: object, new: object) -> str:
    text, before, after = scalar(value), scalar(old), scalar(new)
    _afford(context, len(text) + text.count(before) * (len(after) - len(before)))
    return text.replace(before, after)


def _join(context: Context, value: Iterable[object], separator: object = "") -> str:
    texts, between = [scalar(element) for element in value], scalar(separator)
    _afford(context, sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _afford(context: Context, size: int) -> None:
    context.environment.afford(size)  # type: ignore[attr-defined] # a SqlEnvironment


def _metered(function: Callable[..., Any], *, secrets: bool = False) -> Callable[..., Any]:
    """Counts what a filter goes through, and keeps secrets and things without a stable text from it."""
    argument = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def filtered(context: Context, value: object, *args: object, **kwargs: object) -> object:
        environment: Any = context.environment
        if not secrets and is_secret(value):
            raise Refused("a secret cannot be changed or looked into", hint=SECRETS)
        if isinstance(value, Iterator):
            value = environment.counted(value)
        elif isinstance(value, str | list | tuple | dict | range):
            environment.spend(1 + len(value))
        elif not (value is None or isinstance(value, int | float | Undefined | LateBound)):
            raise Refused(f"a {type(value).__name__} cannot go through a filter")
        first = {"context": context, "eval_context": context.eval_ctx, "environment": environment}
        passed = (first[argument.name],) if argument is not None else ()
        return function(*passed, value, *args, **kwargs)

    return functools.update_wrapper(filtered, function, updated=())


def _textual(method: Callable[..., str]) -> Callable[..., str]:
    return lambda value: method(scalar(value))


_OF_JINJA = (
    *(
        "abs",
        "count",
        "dictsort",
        "first",
        "float",
        "groupby",
        "int",
        "items",
        "last",
        "length",
        "list",
        "map",
    ),
    *("max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique"),
)

FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _metered(JINJA[name]) for name in _OF_JINJA},
    **{name: _metered(JINJA[name], secrets=True) for name in ("default", "d")},
    **{name: _metered(f, secrets=True) for name, f in (("ident", ident), ("raw", raw))},
    **{name: _metered(f, secrets=True) for name, f in (("literal", literal), ("scram", scram))},
    **{name: _metered(_textual(getattr(str, name))) for name in ("upper", "lower", "title", "capitalize")},
    "trim": _metered(_textual(str.strip)),
    "string": _metered(_textual(str)),
    "join": _metered(pass_context(_join)),
    "replace": _metered(pass_context(_replace)),
}
