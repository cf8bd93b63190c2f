"""SQL text that remembers from which place of which file every character came, and what values went in."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, Union

from smeta_declare.diagnostics import Location


@dataclass(frozen=True, slots=True)
class Secret:
    """A late-bound value: the environment variable `name`, read only when a statement is sent."""

    name: str


Value: TypeAlias = Union[str, int, float, bool, Secret, "tuple[Value, ...]", "Mapping[str, Value]", None]

# What a piece of the text is: the template's own characters, a constant in one of its expressions, or a value
# printed bare or through the filter of that name.
Kind: TypeAlias = Literal["text", "constant", "bare", "ident", "literal", "raw", "scram"]
SecretForm: TypeAlias = Literal["literal", "scram"]


class Span(NamedTuple):
    """From `start` to the next span: text of `template` at `source` (a value: where its `{{` stands)."""

    start: int
    template: str
    source: int
    kind: Kind
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class SecretSlot:
    """Where a secret goes: characters `start` to `end` of the text hold a placeholder literal until then."""

    start: int
    end: int
    name: str
    form: SecretForm

    def shifted(self, by: int) -> SecretSlot:
        """The same slot in a text that begins elsewhere."""
        return SecretSlot(self.start + by, self.end + by, self.name, self.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A template's result. A part of it (`slice`) still knows its places and its secrets."""

    text: str
    name: str
    spans: tuple[Span, ...]
    sources: Mapping[str, str] = field(compare=False, repr=False)  # every file that was read, in that order

    @classmethod
    def kept(cls, text: str, *, name: str, secrets: Iterable[SecretSlot] = ()) -> Rendered:
        """Text that is its own template: a plain file, or SQL stored with the places of its secrets."""
        spans = [Span(0, name, 0, "text")]
        for slot in secrets:
            spans += [
                Span(slot.start, name, slot.start, slot.form, slot.name),
                Span(slot.end, name, slot.end, "text"),
            ]
        return cls(text=text, name=name, spans=tuple(spans), sources={name: text})

    @property
    def includes(self) -> tuple[str, ...]:
        """The other templates that were loaded, in the order they were first needed."""
        return tuple(name for name in self.sources if name != self.name)

    @property
    def secrets(self) -> tuple[SecretSlot, ...]:
        """The places where secrets go, in the order of the text."""
        if self._plain:
            return ()
        return tuple(
            SecretSlot(start, end, span.secret, "scram" if span.kind == "scram" else "literal")
            for start, end, span in self.values()
            if span.secret is not None
        )

    @property
    def _plain(self) -> bool:
        """Whether it is one stretch of a file, as nearly all are: much asked for, and quickly answered."""
        return len(self.spans) == 1 and self.spans[0].kind == "text"

    def values(self) -> Iterator[tuple[int, int, Span]]:
        """Start, end and origin of everything that is not the template's own text."""
        if self._plain:
            return
        ends = (*(span.start for span in self.spans[1:]), len(self.text))
        for span, end in zip(self.spans, ends, strict=True):
            if span.kind not in ("text", "constant") and end > span.start:
                yield span.start, end, span

    def locate(self, offset: int) -> Location:
        """The place in the template that a person has to look at for a character of the text."""
        offset = max(0, min(offset, len(self.text)))
        span = self._span(offset)
        source = span.source + (offset - span.start if span.kind == "text" else 0)
        return Location.of(span.template, self.sources[span.template], source)

    def is_template_text(self, offset: int) -> bool:
        """Whether a character was written in a template, and not put there by a value."""
        return self._span(offset).kind == "text"

    def slice(self, start: int, end: int) -> Rendered:
        """The text from `start` to `end`; a cut through a secret is a programming error."""
        if self._plain:
            (head,) = self.spans
            spans: tuple[Span, ...] = (Span(0, head.template, head.source + start, "text"),)
            return Rendered(text=self.text[start:end], name=self.name, spans=spans, sources=self.sources)
        if any(slot.start < cut < slot.end for slot in self.secrets for cut in (start, end)):
            raise ValueError("a slice must not cut a secret")
        first = bisect.bisect_right(self.spans, start, key=_start) - 1
        last = max(first + 1, bisect.bisect_left(self.spans, end, key=_start))
        head = self.spans[first]
        skipped = start - head.start if head.kind == "text" else 0
        shifted = (span._replace(start=span.start - start) for span in self.spans[first + 1 : last])
        spans = (head._replace(start=0, source=head.source + skipped), *shifted)
        return Rendered(text=self.text[start:end], name=self.name, spans=spans, sources=self.sources)

    def _span(self, offset: int) -> Span:
        return self.spans[bisect.bisect_right(self.spans, offset, key=_start) - 1]


def _start(span: Span) -> int:
    return span.start


def normalise(source: str) -> str:
    """The text of a file without a byte order mark, its lines ended by LF: what is rendered and hashed."""
    return source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
