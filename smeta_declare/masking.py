"""Secrets stay out of everything smeta writes: they are replaced by value at the places that write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

MASK = "«secret»"
WHOLE_WORD = 8  # characters from which on a secret is replaced inside of words, too


@dataclass(frozen=True, slots=True)
class Masker:
    """Replaces known secret values, also in the spellings they take inside URLs, SQL and JSON."""

    spellings: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Iterable[str]) -> Masker:
        """A masker for these values; the longest are replaced first, so that none leaves a rest.

        One or two characters are no secret that can be masked: they are in every word.
        """
        found = set()
        for value in values:
            if len(value) > 2:
                found |= {value, quote(value, safe=""), quote(value), value.replace("'", "''")}
                found |= {
                    json.dumps(value)[1:-1],
                    json.dumps(value, ensure_ascii=False)[1:-1],
                    repr(value)[1:-1],
                }
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        for spelling in self.spellings:
            if len(spelling) >= WHOLE_WORD:
                text = text.replace(spelling, MASK)
            elif spelling in text:
                # A short one is part of many words (`app` of `applied`): only as a word of its own is it a secret.
                text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", lambda _: MASK, text)
        return text
