"""Jinja for SQL: sandboxed, the same answer every time, and every character remembers its place.

Nothing is marked in the text: the code generator hands each piece of output to `SqlEnvironment.piece`
together with its offset, and `concat`, through which Jinja sends every page, macro, block and `set`, joins
pieces into `Sql`, a string with a table of origins. What is not `Sql` was touched on the way and is refused.

Limits are counts and sizes, never clocks. Jinja's code generator and lexer are not public API: its version
is pinned.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, cast

from jinja2 import FunctionLoader, StrictUndefined, Template, Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateNotFound, TemplateSyntaxError, UndefinedError
from jinja2.lexer import TokenStream
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from smeta_declare.diagnostics import Location, nearest
from smeta_declare.errors import SmetaError, TemplateError
from smeta_declare.filters import FILTERS, SECRETS, LateBound, Refused, Sql, is_secret, scalar, sql
from smeta_declare.rendered import Kind, Rendered, Secret, Span, Value, normalise

STEPS = 1_000_000  # passes through loops, pieces of output, calls
LENGTH = 4_000_000  # characters of output, beyond the sources' own
SIZE = 1_000_000  # characters or elements of one value
BITS = 4_096  # of one whole number

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*|[0-9]+(\.[0-9]+)?|")

_LEXER = re.compile(r"(?P<what>unexpected char .*) at (?P<at>\d+)", re.DOTALL)


def render_template(
    source: str, *, name: str, variables: Mapping[str, Value], load: Callable[[str], str | None]
) -> Rendered:
    """What `template.render` does with a source that needs Jinja; line ends are LF already."""
    run = _environment().for_one_run(name, source, load)
    values = {key: _bind(value) for key, value in variables.items()}
    try:
        # As globals: macros of imported files see the variables too.
        text = run.get_template(name, globals=values).render()
    except SmetaError:
        raise
    except Exception as error:
        raise run.explain(error, known=values) from error
    return Rendered(text=str(text), name=name, spans=cast(Sql, text).spans, sources=run.sources)


def _bind(value: Value) -> object:
    match value:
        case Secret():
            return LateBound(value.name)
        case tuple() | list():
            return tuple(_bind(element) for element in value)
        case Mapping():
            return {key: _bind(element) for key, element in value.items()}
        case _:
            return value


class _At(int):
    """A line number that knows its character offset: it travels through the parser into the nodes."""

    offset: int

    @classmethod
    def of(cls, line: int, offset: int) -> _At:
        self = cls(line)
        self.offset = offset
        return self


class _Generator(CodeGenerator):
    """Sends every piece of output through `environment.piece`; "line numbers" of tracebacks are offsets."""

    def newline(self, node: nodes.Node | None = None, extra: int = 0) -> None:
        super().newline(None, extra)
        offset = getattr(node.lineno, "offset", None) if node is not None else None
        if offset is not None and offset + 1 != self._last_line:  # from 1, as line numbers are
            self._write_debug_info = self._last_line = offset + 1

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        raise nodes.Impossible

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        kind = "text" if isinstance(node, nodes.TemplateData) else "bare"
        self.write(f"environment.piece({self.name!r}, {getattr(node.lineno, 'offset', 0)}, {kind!r}, ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")


class _Rewriter(NodeTransformer):
    """Gives loops and `~`, which no sandbox hook sees, to methods of the environment that count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _call("counted", [cast(nodes.Expr, node.iter)], node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", node.nodes, node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._constant(child) for child in node.nodes]
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> NoReturn:
        raise TemplateSyntaxError("autoescape is for HTML; use ident and literal", node.lineno)

    def _constant(self, node: nodes.Expr) -> nodes.Expr:
        """`{{ ", " if not loop.last }}`: text written in an expression is the template's too."""
        match node:
            case nodes.Const(value=str()):
                return _call("constant", [node], node)
            case nodes.CondExpr():
                node.expr1 = self._constant(node.expr1)
                node.expr2 = self._constant(node.expr2) if node.expr2 else None
            case _:
                pass
        return node


def _call(method: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None, lineno=at.lineno)


class SqlEnvironment(ImmutableSandboxedEnvironment):
    """One per process holds what never changes; `for_one_run` gives a cheap copy for one rendering."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    sources: dict[str, str]
    _left: int
    _limit: int
    _last: tuple[str, int]
    _lexed: int = 0

    def for_one_run(self, name: str, source: str, load: Callable[[str], str | None]) -> SqlEnvironment:
        """A copy that loads through `load` and counts from zero."""
        sources = {name: source}

        def read(wanted: str) -> str | None:
            if wanted not in sources:
                if (text := load(wanted)) is None:
                    return None
                sources[wanted] = normalise(text)
            return sources[wanted]

        run = self.overlay(loader=FunctionLoader(read))
        run.sources, run._left, run._limit, run._last = sources, STEPS, LENGTH + len(source), (name, 0)
        return run

    # Positions

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        def placed() -> Iterator[tuple[int, str, str]]:
            position, opened = 0, None
            for line, kind, text in self.lexer.tokeniter(source, name, filename, state):
                position = source.index(text, position)  # the lexer drops nothing but white space
                if kind == "variable_begin":
                    opened = position  # all of {{ … }} counts as its first brace
                elif kind == "variable_end":
                    opened = None
                self._lexed = position if opened is None else opened
                yield _At.of(line, self._lexed), kind, text
                position += len(text)

        return TokenStream(self.lexer.wrap(placed(), name, filename), name, filename)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        try:
            _Rewriter().visit(tree)
        except TemplateSyntaxError as error:
            error.name = name
            raise
        tree.set_environment(self)
        return tree

    def piece(self, template: str, offset: int, kind: Kind, value: object) -> Sql:
        """A piece of output with its origin, or a refusal: called from compiled templates."""
        self.spend(1)
        self._last = (template, offset)
        if kind == "text":
            return sql(cast(str, value), (Span(0, template, offset, "text"),))
        if isinstance(value, Sql):
            # What a filter gave has no place of its own yet; what a macro gave has.
            return sql(
                value,
                tuple(s if s.template else s._replace(template=template, source=offset) for s in value.spans),
            )
        return sql(_bare(value), (Span(0, template, offset, "bare"),))

    def concat(self, pieces: Iterable[object]) -> Sql:
        """Everything Jinja joins comes through here."""
        texts: list[str] = []
        spans: list[Span] = []
        size = 0
        for found in pieces:
            # {% filter %} and {% call %} yield what never was a piece.
            piece = found if isinstance(found, Sql) else self.piece(*self._last, "bare", found)
            spans += [span._replace(start=size + span.start) for span in piece.spans]
            texts.append(piece)
            size += len(piece)
            if size > self._limit:
                raise Refused(f"the result is longer than {self._limit:,} characters")
            if "\0" in piece:
                raise Refused("the result contains a NUL character, which no SQL text can hold")
        self.spend(1 + size // 64)
        return sql("".join(texts), tuple(spans) or (Span(0, self._last[0], 0, "text"),))

    def constant(self, text: str) -> Sql:
        """A string that stands in an expression of the template itself."""
        return sql(text, (Span(0, "", 0, "constant"),))

    # Limits

    def spend(self, steps: int) -> None:
        """Count work; the same template stops at the same place on any machine."""
        self._left -= steps
        if self._left < 0:
            raise Refused(
                f"the template takes more than {STEPS:,} steps",
                hint="generate rows in SQL (generate_series, a set-based insert), not in the template",
            )

    def counted(self, values: Iterable[object]) -> Iterator[object]:
        """The passes of a loop."""
        if is_secret(values):
            raise Refused("a secret cannot be looped over", hint=SECRETS)
        for value in values:
            self.spend(1)
            yield value

    def joined(self, *values: object) -> str:
        """The `~` operator."""
        texts = [scalar(value) for value in values]
        self.afford(sum(map(len, texts)))
        return "".join(texts)

    def afford(self, size: int) -> None:
        """Refuse a value too big before it is built."""
        if size > SIZE:
            raise Refused(f"a value would have {size:,} characters or elements; the limit is {SIZE:,}")
        self.spend(1 + size // 64)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if is_secret(left) or is_secret(right):
            raise Refused("a secret cannot be calculated with or put together", hint=SECRETS)
        if operator == "%" and isinstance(left, str):
            raise Refused("text cannot be formatted with %", hint="put pieces together with ~")
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        whole = [side for side in (left, right) if isinstance(side, int)]
        if operator == "+":
            self.afford(sum(sizes))
        elif operator == "*" and sizes and whole:
            self.afford(sizes[0] * max(whole[0], 0))
        elif len(whole) == 2 and (
            (operator == "*" and left.bit_length() + right.bit_length() > BITS)
            or (operator == "**" and left.bit_length() * abs(right) > BITS)
        ):
            raise Refused(f"a number would have more than {BITS:,} bits")
        return super().call_binop(context, operator, left, right)

    # What templates may touch

    def is_safe_callable(self, obj: Any) -> bool:
        owner = getattr(obj, "__self__", None)
        return (
            isinstance(obj, Macro | BlockReference | LoopContext)
            or isinstance(owner, SqlEnvironment | LoopContext)
            or any(obj is allowed for allowed in self.globals.values())
            or (isinstance(owner, dict) and obj.__name__ in ("items", "keys", "values", "get"))
        )

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self.spend(
            10
        )  # a call costs about as much time as ten passes of a loop, an include five times that
        if isinstance(__obj, LoopContext) and args:  # {{ loop(children) }} starts another loop
            args = (__self.counted(args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def get_template(self, *args: Any, **kwargs: Any) -> Template:
        self.spend(50)
        return super().get_template(*args, **kwargs)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if is_secret(obj):
            raise Refused("a secret has no parts", hint=SECRETS)
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Sql | LateBound):
            raise Refused("a secret has no parts" if is_secret(obj) else f"text has no {attribute}")
        return super().getattr(obj, attribute)

    # Errors

    def handle_exception(self, source: str | None = None) -> NoReturn:
        raise  # Jinja calls this while it handles an error; its own rewriting would lose the offsets

    def explain(self, error: Exception, *, known: Mapping[str, object]) -> TemplateError:
        """Our error for whatever went wrong while rendering."""
        name, offset = self._place(error)
        message, hint = _in_words(error, known=known)
        if (
            isinstance(error, TemplateSyntaxError)
            and hint is None
            and self.sources[name].startswith("{{", offset)
        ):
            hint = "a {{ that is SQL, as in an array, stands between {% raw %} and {% endraw %}"
        return TemplateError(message, hint=hint, location=Location.of(name, self.sources[name], offset))

    def _place(self, error: Exception) -> tuple[str, int]:
        if isinstance(error, TemplateSyntaxError) and error.name in self.sources:
            offset = getattr(error.lineno, "offset", None)
            if offset is None:  # the lexer's, which may say the place in words
                told = _LEXER.fullmatch(str(error.message))
                offset = int(told["at"]) if told else self._lexed
            return error.name, offset
        place = self._last
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            if (template := trace.tb_frame.f_globals.get("__jinja_template__")) is not None:
                place = (template.name, template.get_corresponding_lineno(trace.tb_lineno) - 1)
            trace = trace.tb_next
        return place


@functools.cache
def _environment() -> SqlEnvironment:
    environment = SqlEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        optimized=False,  # nothing is calculated while compiling, where nobody counts
    )
    environment.filters = dict(FILTERS)
    environment.globals = {"range": environment.globals["range"], "dict": dict, "namespace": Namespace}
    return environment


def _bare(value: object) -> str:
    """A value printed without a filter: a word, a number or nothing, none of which can end a token."""
    match value:
        case LateBound():
            raise Refused(f"secret {value.name} is printed bare", hint=SECRETS)
        case None:
            raise Refused("the value is none", hint="write {{ …|literal }}, which gives null")
        case bool():
            raise Refused("the value is true or false", hint="write {{ …|literal }}")
        case list() | tuple():
            raise Refused(
                "the value is a list", hint="write {{ …|ident }} or {{ …|literal }}, or loop over it"
            )
        case str() | int() | float() | Undefined():
            text = str(value)  # raises for a variable that does not exist
            if _BARE.fullmatch(text):
                return text
            shown = text if len(text) <= 40 else f"{text[:39]}…"
            raise Refused(
                f"{shown!r} is not a bare word or number",
                hint="a name goes through |ident, a value through |literal, trusted SQL through |raw",
            )
        case _:
            raise Refused(f"a {type(value).__name__} cannot be printed")


def _in_words(error: Exception, *, known: Mapping[str, object]) -> tuple[str, str | None]:
    """Message and hint."""
    text = str(getattr(error, "message", None) or error).rstrip(".")
    text = text[:1].lower() + text[1:]
    match error:
        case Refused():
            return error.message, error.hint
        case TemplateNotFound():
            return f"template {error.name} does not exist", "includes are named from the migrations directory"
        case UndefinedError():
            if m := re.fullmatch(r"'(\w+)' is undefined", text):
                meant = nearest(m[1], known)
                names = ", ".join(sorted(known)) or "none"
                hint = f"did you mean {meant}?" if meant else f"variables of this environment: {names}"
                return f"variable {m[1]} is not defined", hint
            return text, None
        case RecursionError():
            return "templates or macros call each other without end", None
        case SecurityError():
            return text, "templates see variables, macros and filters only"
        case _:
            if m := _LEXER.fullmatch(text):
                return m["what"], None
            if m := re.fullmatch(r"no filter named '(\w+)'.*", text):
                meant = nearest(m[1], FILTERS)
                return f"there is no filter {m[1]}", (
                    f"did you mean {meant}?" if meant else f"filters: {', '.join(sorted(FILTERS))}"
                )
            return text or type(error).__name__, None
