"""Words read from signs become evidence of roadwork. Plain Python without Triton and without OCR.

Text is compared without case, accents, punctuation and spaces (OCR often loses the last). A phrase matches a run of
whole words, so that WORK in NETWORK says nothing, with one wrong letter in every seven: in the short words that shops
and signs share none may be wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rapidfuzz.distance import Levenshtein

LETTERS_PER_ERROR = 7
_EXTRA_WORDS = 2
"""Into how many pieces more than it has words OCR may have cut a phrase."""

Run = tuple[int, int, str]
"""start, stop, letters: words[start:stop] of a sign, joined."""

# Letters that Unicode does not decompose, written as signs without accents write them.
_PLAIN = str.maketrans({"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th"})
_LOOKALIKES = str.maketrans("01358|", "oiesbi")
_IDEOGRAPH = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_WORD = re.compile(rf"{_IDEOGRAPH}|[^\W_]+?(?={_IDEOGRAPH}|\b|_)|\|")


class KeywordError(ValueError):
    """The keyword table cannot be used; the message names the field."""


@dataclass(frozen=True)
class Phrase:
    """text: as the table has it; letters: its normal form without spaces; words: how many; evidence in [0, 1]."""

    text: str
    language: str
    evidence: float
    letters: str
    words: int


@dataclass(frozen=True)
class Word:
    """One word of a sign. text: normal form; confidence: of the OCR, in [0, 1]; line: index of the line it is in."""

    text: str
    confidence: float
    line: int


@dataclass(frozen=True)
class Match:
    """phrase found in words[start:stop] of a sign; score = match quality * OCR confidence * evidence, in [0, 1]."""

    phrase: Phrase
    start: int
    stop: int
    quality: float
    score: float


def words_of(text: str) -> list[str]:
    """Normal form of each word. Every ideograph is a word of its own, for these scripts write no spaces."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold().translate(_PLAIN))
    plain = unicodedata.normalize("NFC", "".join(_strip_accents(plain)))
    plain = plain.replace("'", " ").replace("’", " ")
    return [_letters_for_digits(word) for word in _WORD.findall(plain)]


def _strip_accents(decomposed: str) -> Iterable[str]:
    # The marks of Japanese kana (U+3099, U+309A) make other letters, not accents.
    return (c for c in decomposed if c in "\u3099\u309a" or not unicodedata.combining(c))


def _letters_for_digits(word: str) -> str:
    """R0AD is road, but 50 and A1 stay: digits turn into letters only where letters are the most."""
    letters = sum(c.isalpha() for c in word)
    return word.translate(_LOOKALIKES) if letters >= 2 and letters * 2 > len(word) else word


class KeywordTable:
    """The phrases of `keywords.yaml`."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self.phrases = tuple(phrases)
        self._most_words = max((phrase.words for phrase in self.phrases), default=0) + _EXTRA_WORDS

    @classmethod
    def load(cls, path: Path | str) -> KeywordTable:
        """Raises KeywordError for a file that is absent or a field that is wrong."""
        try:
            with open(path, encoding="utf-8") as file:
                table = yaml.safe_load(file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KeywordError(f"{path}: {error}") from error
        if not isinstance(table, dict) or table.get("version") != 1:
            raise KeywordError(f"{path}: version: must be 1")
        languages = table.get("phrases")
        if not isinstance(languages, dict) or not languages:
            raise KeywordError(f"{path}: phrases: must be a table of languages")
        phrases = []
        for language, entries in languages.items():
            if not isinstance(language, str):
                raise KeywordError(f'{path}: phrases.{language}: the language must be text: write it in quotes ("no")')
            if not isinstance(entries, dict):
                raise KeywordError(f"{path}: phrases.{language}: must be a table of phrase: evidence")
            phrases += [_phrase(f"{path}: phrases.{language}", language, *entry) for entry in entries.items()]
        return cls(phrases)

    def find(self, words: Sequence[Word]) -> list[Match]:
        """The matches in one sign, best first. Each word counts for one phrase: the one that explains most letters."""
        runs = self._runs(words)
        candidates = [match for phrase in self.phrases if (match := _best_match(phrase, words, runs)) is not None]
        candidates.sort(key=lambda match: -len(match.phrase.letters) * (2 * match.quality - 1))
        taken: set[int] = set()
        found = []
        for match in candidates:
            span = set(range(match.start, match.stop))
            if not span & taken:
                taken |= span
                found.append(match)
        return sorted((match for match in found if match.score > 0), key=lambda match: -match.score)

    def _runs(self, words: Sequence[Word]) -> dict[int, list[Run]]:
        """Runs of words that may be a phrase, by their number of letters."""
        runs: dict[int, list[Run]] = {}
        for start in range(len(words)):
            letters = ""
            for stop in range(start + 1, min(len(words), start + self._most_words) + 1):
                letters += words[stop - 1].text
                runs.setdefault(len(letters), []).append((start, stop, letters))
        return runs


def _phrase(where: str, language: str, text: object, evidence: object) -> Phrase:
    words = words_of(text) if isinstance(text, str) else []
    if not words:
        raise KeywordError(f"{where}.{text}: must be words in letters")
    if isinstance(evidence, bool) or not isinstance(evidence, int | float) or not 0 <= evidence <= 1:
        raise KeywordError(f"{where}.{text}: evidence must be a number in [0, 1], not {evidence!r}")
    return Phrase(str(text), language, float(evidence), "".join(words), len(words))


def _best_match(phrase: Phrase, words: Sequence[Word], runs: Mapping[int, Sequence[Run]]) -> Match | None:
    """The run of words that is most like the phrase, or None where none is alike enough."""
    length = len(phrase.letters)
    errors = length // LETTERS_PER_ERROR
    best: tuple[int, int, int] | None = None
    for letters in range(length - errors, length + errors + 1):
        for start, stop, text in runs.get(letters, ()):
            pieces_too_many = max(0, stop - start - phrase.words)
            if pieces_too_many > _EXTRA_WORDS:
                continue
            # What has to be put together from more pieces than the phrase has words is more often chance.
            allowed = max(0, errors - pieces_too_many)
            distance = Levenshtein.distance(text, phrase.letters, score_cutoff=allowed)
            if distance <= allowed and (best is None or (distance, start) < best[:2]):
                best = distance, start, stop
    if best is None:
        return None
    distance, start, stop = best
    quality = 1 - distance / length
    return Match(phrase, start, stop, quality, quality * _confidence(words[start:stop]) * phrase.evidence)


def _confidence(words: Sequence[Word]) -> float:
    """Mean of the words' OCR confidences by letters."""
    letters = sum(len(word.text) for word in words)
    return sum(len(word.text) * word.confidence for word in words) / letters
