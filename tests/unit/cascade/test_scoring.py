"""A model's tokens as a number: mass, tokens that split the answer, thoughts, broken answers."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roadwork_cascade.engine import EngineError, Piece, TokenLogprob
from roadwork_cascade.prompts import Prompt, parse_prompt
from roadwork_cascade.scoring import BrokenAnswer, Said, repair_prompt, score_reasoner, score_repair, score_scorer
from tier_double import NO, OTHER, REASONER, SCORER, YES, entry, spoken


def said(pieces: list[Piece]) -> Said:
    whole = Said()
    for piece in pieces:
        whole.add(piece)
    return whole


def one(*tokens: tuple[int, float]) -> Said:
    return Said("yes", [{token: TokenLogprob(math.log(p)) for token, p in tokens}])


def prompt(base: dict[str, Any], **changes: Any) -> Prompt:
    return parse_prompt({**copy.deepcopy(base), **changes})


def test_a_scorer_is_the_share_of_yes_over_all_variants() -> None:
    asked = prompt(
        SCORER,
        yes={"yes": 1, " Yes": 11},
        no={"no": 2, "No": 12},
        sampling={"max_tokens": 1, "logprobs": 20},
    )
    score = score_scorer(one((1, 0.3), (11, 0.3), (2, 0.1), (12, 0.1), (OTHER, 0.2)), asked, 0.5)
    assert score.raw == pytest.approx(0.75)
    assert score.mass == pytest.approx(0.8)


def test_a_token_that_is_not_listed_counts_nothing() -> None:
    assert score_scorer(one((YES, 0.7)), prompt(SCORER), 0.5).raw == 1.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Said("yes", []), "without log-probabilities"),
        (one((OTHER, 0.9)), "neither yes nor no: none of their tokens is among 1"),
        (one((YES, 0.2), (NO, 0.1)), "their mass is 0.300, under 0.5"),
        (Said("", [{}]), "neither yes nor no"),
        (Said("", [{YES: TokenLogprob(float("nan"))}]), "must be at most 0, got nan"),
        (Said("", [{YES: TokenLogprob(0.5)}]), "must be at most 0, got 0.5"),
        (Said("", [{YES: TokenLogprob(float("-inf"))}]), "neither yes nor no"),
    ],
)
def test_a_question_that_failed_says_how(answer: Said, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        score_scorer(answer, prompt(SCORER), 0.5)


TEXTS = [  # the bar stands before the boolean that is wanted
    '{"roadwork": |true}',
    '{"thoughts": "the word \\"roadwork\\": true is on a sign", "roadwork": |false}',
    '{"thoughts": "straße – cône 🚧", "roadwork": |true}',
    '  {"roadwork":|true,"thoughts":"it says \\"roadwork\\": false"}\n',
    '{"a": {"roadwork": true}, "roadwork": |true, "b": [1, {"roadwork": true}]}',
    '{"roadwork": false, "roadwork": |true}',
]


@given(marked=st.sampled_from(TEXTS), size=st.integers(1, 12), yes=st.floats(0.01, 0.98))
def test_the_booleans_token_is_found_however_the_text_is_cut(marked: str, size: int, yes: float) -> None:
    at, text = marked.index("|"), marked.replace("|", "")
    cuts = sorted({*range(0, len(text), size), at, len(text)})
    pieces = [
        Piece(text[b:e], [entry(text[b:e], OTHER, yes if b == at else 0, 0.99 - yes if b == at else 0)], 70, 1)
        for b, e in itertools.pairwise(cuts)
    ]
    assert score_reasoner(said(pieces), prompt(REASONER), 0.5).raw == pytest.approx(yes / 0.99)


def test_a_token_may_hold_what_stands_before_the_boolean() -> None:
    tokens = ['{"', "roadwork", '":', " tr", "ue", "}", "<|im_end|>"]
    whole = Said(
        '{"roadwork": true}',
        [entry(t, OTHER, 0.6, 0.2) if t == " tr" else {OTHER: TokenLogprob(-1, 1, t)} for t in tokens],
    )
    assert score_reasoner(whole, prompt(REASONER), 0.5).raw == pytest.approx(0.75)


def test_marks_and_half_characters_that_the_text_lacks_do_no_harm() -> None:
    tokens = ["<think>", "\ufffd", "\ufffd", "hm", "</think>", '{"roadwork": ', "false", "}"]
    whole = Said(
        'é hm</think>{"roadwork": false}',
        [entry(t, OTHER, 0.1, 0.8) if t == "false" else {OTHER: TokenLogprob(-1, 1, t)} for t in tokens],
    )
    asked = prompt(REASONER, thinking=["<think>", "</think>"], answer={"field": "roadwork", "thoughts": None})
    score = score_reasoner(whole, asked, 0.5)
    assert score.raw == pytest.approx(1 / 9)
    assert score.thoughts == "é hm"


def test_thoughts_come_from_the_json() -> None:
    text = '{"thoughts": "two cones", "roadwork": true}'
    assert score_reasoner(said(spoken(text, 0.9, 0.1)), prompt(REASONER), 0.5).thoughts == "two cones"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no JSON"),
        ("yes, there is", "has no JSON: yes, there is"),
        ('{"thoughts": "I', "broken JSON"),
        ('{"roadwork": "yes"}', "not as asked"),
        ('{"roadwork": 1}', "not as asked"),
        ('{"thoughts": "x"}', "not as asked"),
        ('{"roadwork": null}', "not as asked"),
    ],
)
def test_a_broken_answer_is_worth_a_repair(text: str, message: str) -> None:
    with pytest.raises(BrokenAnswer, match=message):
        score_reasoner(said(spoken(text, 0.9, 0.1)), prompt(REASONER), 0.5)


def test_missing_logprobs_are_not_worth_a_repair() -> None:
    with pytest.raises(EngineError, match="without log-probabilities") as failure:
        score_reasoner(Said('{"roadwork": true}'), prompt(REASONER), 0.5)
    assert not isinstance(failure.value, BrokenAnswer)
    with pytest.raises(EngineError, match="do not spell its answer") as failure:
        score_reasoner(Said('{"roadwork": true}', [entry("x", OTHER, 0.5, 0.5)]), prompt(REASONER), 0.5)
    assert not isinstance(failure.value, BrokenAnswer)


def test_a_repair_ends_thoughts_that_ran_out_of_tokens() -> None:
    asked = prompt(REASONER, thinking=["<think>", "</think>"], answer={"field": "roadwork", "thoughts": None})
    assert repair_prompt("P", "<think>cones", asked) == 'P<think>cones</think>\n{"roadwork":'
    assert repair_prompt("P", "<think>a</think>b", asked) == 'P<think>a</think>b\n{"roadwork":'
    repaired = Said("true", [entry("true", YES, 0.8, 0.2)])
    score = score_repair(Said("<think>cones"), repaired, asked, 0.5)
    assert (score.raw, score.thoughts) == (pytest.approx(0.8), "cones")
