"""Options, error texts, taxonomy and model versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roadwork_cascade import taxonomy
from roadwork_cascade.engine import (
    EngineError,
    EngineTimeout,
    InvalidOptions,
    ModelUnavailable,
    RequestRefused,
    error_from_message,
    invalid_image,
)
from roadwork_cascade.options import Options, parse_options
from roadwork_cascade.taxonomy import TaxonomyError, load_taxonomy

PACKAGES = Path(taxonomy.__file__).parents[1]


def test_options_are_read() -> None:
    assert parse_options('{"deadline_ms": 250, "all_stages": true}') == Options(250.0, True)
    assert parse_options(b"{}") == parse_options("") == parse_options(" ") == Options()
    assert parse_options('{"deadline_ms": null}') == Options()
    assert parse_options('{"tiers": ["fast"], "max_tokens": 0, "max_cost": 1}') == Options(
        None, None, ("fast",), 0, 1.0
    )
    assert parse_options('{"tiers": false}').tiers == ()
    assert parse_options('{"tiers": true}').tiers is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "INVALID_OPTIONS: must be JSON"),
        ("[" * 100_000, "INVALID_OPTIONS: must be JSON"),
        (b"\xff\xfe\x00", "INVALID_OPTIONS: must be JSON"),
        ("[]", "INVALID_OPTIONS: must be a JSON object, got list"),
        ('{"deadline": 3}', "INVALID_OPTIONS: deadline: unknown; did you mean 'deadline_ms'?"),
        ('{"deadline_ms": 0}', "INVALID_OPTIONS: deadline_ms: must be a positive number, got 0"),
        ('{"deadline_ms": NaN}', "INVALID_OPTIONS: deadline_ms: must be a positive number, got nan"),
        ('{"deadline_ms": true}', "INVALID_OPTIONS: deadline_ms: must be a positive number, got True"),
        ('{"deadline_ms": 1e999}', "INVALID_OPTIONS: deadline_ms: must be a positive number, got inf"),
        ('{"all_stages": 1}', "INVALID_OPTIONS: all_stages: must be true or false, got 1"),
        ('{"tiers": "fast"}', "INVALID_OPTIONS: tiers: must be true, false or a list of names, got fast"),
        ('{"tiers": [1]}', "INVALID_OPTIONS: tiers: must be true, false or a list of names"),
        ('{"max_tokens": 1.5}', "INVALID_OPTIONS: max_tokens: must be a whole number that is not negative, got 1.5"),
        ('{"max_tokens": -1}', "INVALID_OPTIONS: max_tokens: must be a whole number"),
        ('{"max_cost": -1}', "INVALID_OPTIONS: max_cost: must be a number that is not negative, got -1"),
        ('{"max_cost": NaN}', "INVALID_OPTIONS: max_cost: must be a number that is not negative, got nan"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidOptions) as refusal:
        parse_options(text)
    assert str(refusal.value).startswith(message)


@given(st.one_of(st.text(), st.binary()))
def test_any_text_is_options_or_refused(text: str | bytes) -> None:
    refusal = ""
    try:
        parse_options(text)
    except InvalidOptions as error:
        refusal = str(error)
    assert refusal == "" or refusal.startswith("INVALID_OPTIONS: ")


@pytest.mark.parametrize(
    "text",
    [
        "Model 'yolox' is not ready.",
        "Request for unknown model: 'yolox' is not found",
        "Request for unknown model: 'yolox' has no available versions",
        "Model yolox - Error when running inference: Failed for execute. Model 'yolox' is not ready.",
    ],
)
def test_a_model_that_is_not_loaded_is_told_from_one_that_fails(text: str) -> None:
    error = error_from_message("yolox", text)
    assert isinstance(error, ModelUnavailable)
    assert error.reason == "unavailable"
    assert "Error when running inference" not in str(error)
    assert type(error_from_message("yolox", "out of memory")) is EngineError
    assert EngineTimeout("late").reason == "timed_out"


@pytest.mark.parametrize("text", ["image[0]: has 99 million pixels, at most 50", "text_input: has 700 tokens"])
def test_a_request_that_a_tier_does_not_take_is_told_from_a_tier_that_fails(text: str) -> None:
    assert isinstance(error_from_message("vlm", text), RequestRefused)
    assert type(error_from_message("vlm", "unavailable: the engine of vlm has died")) is EngineError


def test_the_reason_of_an_invalid_image_is_found_in_what_an_ensemble_makes_of_it() -> None:
    text = "in ensemble 'glance', Exception: INVALID_IMAGE: the file is not found to be a JPEG\n\nAt:\n  x.py(3)"
    error = error_from_message("glance", text)
    assert type(error) is EngineError
    assert str(invalid_image(error)) == "INVALID_IMAGE: the file is not found to be a JPEG"
    assert invalid_image(EngineError("out of memory")) is None


def test_the_taxonomy_needs_only_the_standard_library() -> None:
    code = "from roadwork_cascade.taxonomy import load_taxonomy; print(len(load_taxonomy()))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "16"


def test_the_taxonomy_knows_its_classes() -> None:
    classes = load_taxonomy()
    assert classes.by_name("worker").id == 12
    assert classes.names[0] == "cone"
    assert len(classes.evidence) == len(classes) == 16
    with pytest.raises(KeyError, match="not a class of the taxonomy"):
        classes.by_name("unicorn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 5}, "classes[1].id: must be 1"),
        ({"name": "cone"}, "classes[1].name: 'cone' is used twice"),
        ({"name": "A b"}, "classes[1].name: must be lower case"),
        ({"evidence": 2}, "classes[1].evidence: must be a number in [0, 1]"),
        ({"color": "red"}, "classes[1].color: must be #rrggbb"),
    ],
)
def test_a_wrong_taxonomy_is_refused_by_the_name_of_the_field(tmp_path: Path, change: dict, message: str) -> None:
    classes = [{"id": i, "name": name, "evidence": 1, "color": "#000000"} for i, name in enumerate(("cone", "drum"))]
    classes[1].update(change)
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps({"version": 1, "classes": classes}))
    with pytest.raises(TaxonomyError) as refusal:
        load_taxonomy(path)
    assert message in str(refusal.value)


def test_the_version_that_answers_is_the_highest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGES))
    from model_versions import latest_versions

    for folder in ("a/1", "a/10", "a/2", "a/notes", "b"):
        (tmp_path / folder).mkdir(parents=True)
    assert latest_versions(str(tmp_path), ["a", "b", "c"]) == {"a": "10"}
