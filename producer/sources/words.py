"""Read lines of words, such as "ID URL".

The columns are the words before the URL, the URL, and the remaining part of the line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain, islice

import pyarrow as pa

from producer.formatting import pluralized
from producer.sources.encoding import BYTE_ORDER_MARK
from producer.sources.reader import BadRow, Row, TextLines
from producer.sources.text import read_lines
from tasks.download.urls import looks_like_url

#: Lines that decide which word is the URL. Fewer lines decide if they are long.
_SAMPLE, _SAMPLE_CHARACTERS = 1000, 16 * 1024 * 1024


class WordsReader(TextLines):
    """Reads lines of words, separated by spaces or tabs. The columns are numbered from 1."""

    url_in_header: str | None = None
    description = "a text with words on each line"

    def __init__(self, text: TextIOWrapper) -> None:
        self._lines = enumerate(read_lines(text), 1)
        self._sample: list[tuple[int, str]] = []
        characters = 0
        for number, line in islice(self._lines, _SAMPLE):
            self._sample.append((number, line))
            characters += len(line)
            if characters >= _SAMPLE_CHARACTERS:
                break
        #: The place of the URL among the words of a line, from 0.
        self._place = _find_url(line for _, line in self._sample)
        self.url_column: str | None = str(self._place + 1)
        self.names: Sequence[str] = [str(number + 1) for number in range(self._place + 2)]

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[Row]:
        """Yield the rows, with the values of these columns in this order. Blank lines and comments are skipped."""
        places = [int(name) - 1 for name in columns]
        sample, self._sample = self._sample, []
        for number, line in chain(sample, self._lines):
            words: list[str | None] = [*line.replace(BYTE_ORDER_MARK, "").strip().split(None, self._place + 1)]
            self._line = number
            if not words or str(words[0]).startswith("#"):
                continue
            if len(words) <= self._place:
                count = pluralized(len(words), "word")
                yield BadRow(f"line {number:,} has {count}, and the URL should be word {self._place + 1}")
                continue
            # The last column, which is the remaining part of the line, may be missing.
            words.append(None)
            yield [words[place] for place in places]


def _find_url(lines: Iterator[str]) -> int:
    """Find the first URL of each line, and return its most common position."""
    places = Counter(
        next((place for place, word in enumerate(line.split()) if looks_like_url(word)), None) for line in lines
    )
    del places[None]
    return places.most_common(1)[0][0] or 0 if places else 0
