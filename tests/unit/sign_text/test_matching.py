"""Words become evidence: spelling, languages, what looks like roadwork and is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import KeywordError, KeywordTable, Match, Word, words_of


def best(table: KeywordTable, text: str, confidence: float = 1.0) -> Match | None:
    found = table.find([Word(word, confidence, 0) for word in words_of(text)])
    return found[0] if found else None


@pytest.mark.parametrize(
    ("text", "keyword", "language"),
    [
        ("ROAD WORK AHEAD", "road work ahead", "en"),
        ("Road Works", "road works", "en"),
        ("UTILITY WORK AHEAD 500 FT", "utility work ahead", "en"),
        ("RIGHT LANE CLOSED 1500 FT", "right lane closed", "en"),
        ("SPEED LIMIT 45 WORK ZONE", "work zone", "en"),
        ("SIDEWALK CLOSED USE OTHER SIDE", "sidewalk closed use other side", "en"),
        ("ZONA DE OBRAS", "zona de obras", "es"),
        ("DESVÍO", "desvio", "es"),
        ("Route barrée", "route barree", "fr"),
        ("Déviation", "deviation", "fr"),
        ("Straße gesperrt", "strasse gesperrt", "de"),
        ("ACHTUNG BAUSTELLE!", "achtung baustelle", "de"),
        ("LAVORI IN CORSO", "lavori in corso", "it"),
        ("HOMENS TRABALHANDO", "homens trabalhando", "pt"),
        ("Werk in uitvoering", "werk in uitvoering", "nl"),
        ("DROGA ZAMKNIĘTA", "droga zamknieta", "pl"),
        ("VÄGARBETE PÅGÅR", "vagarbete pagar", "sv"),
        ("OMKØRSEL", "omkorsel", "da"),
        ("Yol Çalışması", "yol calismasi", "tr"),
        ("前方施工 减速慢行", "前方施工", "zh"),
        ("この先工事中", "この先工事中", "ja"),
    ],
)
def test_signs_of_many_languages(table: KeywordTable, text: str, keyword: str, language: str) -> None:
    match = best(table, text)
    assert match is not None
    assert (match.phrase.text, match.phrase.language) == (keyword, language)
    assert match.score == pytest.approx(match.phrase.evidence)


@pytest.mark.parametrize(
    "text", ["ROADWORK AHEAD", "ROADWORKAHEAD", "R0AD W0RK AHEAD", "ROAD W ORK AHEAD", "ROAD-WORK, AHEAD"]
)
def test_spaces_punctuation_and_digits_for_letters(table: KeywordTable, text: str) -> None:
    match = best(table, text)
    assert match is not None
    assert match.phrase.text == "road work ahead"
    assert match.score == 1


@pytest.mark.parametrize(
    "text",
    ["ROAO WORK AHEAD", "ROAD WORK AHFAD", "UTILTY WORK AHEAD", "SIDEWALX CLOSED", "BAUSTELE", "WEGWERKZAAMHEOEN"],
)
def test_a_wrong_letter_costs_some_evidence(table: KeywordTable, text: str) -> None:
    match = best(table, text)
    assert match is not None
    assert match.quality < 1
    assert 0.7 * match.phrase.evidence < match.score < match.phrase.evidence


@pytest.mark.parametrize(
    "text",
    [
        "WORK", "WORKS", "NETWORK", "NET WORK", "FRAMEWORK", "WOODWORK", "WORKSHOP", "FIREWORKS", "COWORKING",
        "CAR WASH", "AUTO BODY WORK", "GYM WORK OUT", "HOTEL LAVORO", "COBRAS", "MAKE OBRA", "Mano de obra",
        "Plat du jour", "de jour", "Obras de arte", "Hard Rock Cafe", "Closed", "Sorry, we are closed", "Open 24 hours",
        "SPEED LIMIT 25", "ONE WAY", "STOP", "NO PARKING", "EXIT", "Main Road", "Railroad", "Ahead", "LANE",
        "MEN'S WEAR", "WOMEN WORKING", "施", "工商银行", "停车场",
    ],
)  # fmt: skip
def test_what_shops_and_other_signs_say_is_nothing(table: KeywordTable, text: str) -> None:
    assert best(table, text) is None


@pytest.mark.parametrize(
    ("ending", "beginning"),
    [
        ("END ROAD WORK", "ROAD WORK"),
        ("Ende der Baustelle", "Baustelle"),
        ("FIN DE TRAVAUX", "TRAVAUX"),
        ("FIN DE OBRAS", "OBRAS"),
        ("Einde werkzaamheden", "werkzaamheden"),
    ],
)
def test_the_end_of_a_zone_weighs_less_than_the_zone(table: KeywordTable, ending: str, beginning: str) -> None:
    end, zone = best(table, ending), best(table, beginning)
    assert end is not None
    assert zone is not None
    assert 0 < end.score < 0.5 < zone.score


def test_a_builder_is_weaker_evidence_than_a_sign(table: KeywordTable) -> None:
    builder, sign = best(table, "SMITH CONSTRUCTION INC"), best(table, "CONSTRUCTION AHEAD")
    assert builder is not None
    assert sign is not None
    assert builder.score <= 0.1 < 0.9 < sign.score


def test_confidence_is_that_of_the_words_that_match(table: KeywordTable) -> None:
    words = [Word("blurred", 0.1, 0), Word("road", 0.9, 1), Word("work", 0.7, 1)]
    (match,) = table.find(words)
    assert (match.start, match.stop) == (1, 3)
    assert match.score == pytest.approx(0.95 * 0.8)


def test_two_messages_on_one_sign(table: KeywordTable) -> None:
    words = [Word(word, 1.0, 0) for word in words_of("ROAD CLOSED AHEAD DETOUR")]
    # The sign says CLOSED AHEAD; either order of the words is on signs.
    assert [match.phrase.text for match in table.find(words)] == ["road closed ahead", "detour"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_any_text_is_judged(table: KeywordTable, text: str) -> None:
    words = words_of(text)
    assert all(words)
    assert all(0 < match.score <= 1 for match in table.find([Word(word, 1.0, 0) for word in words]))


def test_every_phrase_of_the_table_finds_itself(table: KeywordTable) -> None:
    for phrase in table.phrases:
        if phrase.evidence:
            match = best(table, phrase.text.upper())
            assert match is not None, phrase
            assert (match.phrase.letters, match.quality) == (phrase.letters, 1), phrase


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("version: 2\nphrases: {en: {road work: 1}}", "version: must be 1"),
        ("version: 1", "phrases: must be a table"),
        ("version: 1\nphrases: {no: {veiarbeid: 1}}", "in quotes"),
        ("version: 1\nphrases: {en: [road work]}", r"phrases\.en: must be a table"),
        ("version: 1\nphrases: {en: {road work: 1.5}}", r"phrases\.en\.road work: evidence"),
        ("version: 1\nphrases: {en: {road work: yes}}", r"phrases\.en\.road work: evidence"),
        ("version: 1\nphrases: {en: {'!!!': 1}}", r"phrases\.en\.!!!: must be words"),
        ("version: [", "while parsing"),
    ],
)
def test_a_wrong_table_is_refused_with_the_field(tmp_path: Path, yaml: str, says: str) -> None:
    path = tmp_path / "keywords.yaml"
    path.write_text(yaml)
    with pytest.raises(KeywordError, match=says):
        KeywordTable.load(path)


def test_an_absent_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeywordError, match=r"keywords\.yaml"):
        KeywordTable.load(tmp_path / "keywords.yaml")
