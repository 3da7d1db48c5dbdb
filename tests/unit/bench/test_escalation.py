"""Shares of requests that ask the tiers; networks that are opened all at once: real code, no server."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadwork_bench import networks
from roadwork_bench.errors import BenchError
from roadwork_bench.escalation import lacking, mixture, parse
from roadwork_deploy.profile import load_profile

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"


def options(requests: list) -> list[dict]:
    return [json.loads(inputs[1]._get_content()[4:]) for inputs in requests]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_that_asks_the_tiers_is_the_wanted_one(share: float) -> None:
    asked = [found["tiers"] for found in options(mixture([b"one", b"two"], share))]
    assert len(asked) == 100
    assert sum(asked) == round(100 * share)
    if share == 0.1:  # evenly: no two tenths of the requests together hold more than two
        assert max(sum(asked[i : i + 20]) for i in range(80)) == 2


def test_every_image_is_asked_for() -> None:
    images = [bytes([number]) for number in range(120)]
    assert [inputs[0]._get_content()[4:] for inputs in mixture(images, 0.1)] == images


@pytest.mark.parametrize(
    ("text", "option", "says"),
    [("0,1.5", "share", "from 0 to 1"), ("a", "share", "from 0 to 1"), ("0", "in-flight", "whole numbers from 1 on")],
)
def test_numbers_that_cannot_be(text: str, option: str, says: str) -> None:
    with pytest.raises(BenchError, match=f"--{option} is .*{says}"):
        parse(text, option)


def test_a_network_that_does_not_open_leaves_the_others(tmp_path: Path) -> None:
    for name in ("scene", "broken"):
        shutil.copytree(REPOSITORY / "scene", tmp_path / name)
    config = (tmp_path / "broken" / "config.pbtxt").read_text().replace('name: "scene"', 'name: "broken"')
    (tmp_path / "broken" / "config.pbtxt").write_text(config)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a network")
    profile = load_profile("cpu")
    profile = dataclasses.replace(profile, entries=("broken", "scene"))
    failed: dict[str, str] = {}
    canvases = np.zeros((2, 640, 640, 3), np.uint8)
    opened = networks.open_all(tmp_path, profile, [1, 2], canvases, failed)
    assert list(opened) == ["scene"]
    assert list(failed) == ["broken"]


def test_what_verdicts_lacked_is_counted_by_member_and_reason() -> None:
    def gap(member: str, reason: str, detail: str) -> dict[str, str]:
        return {"member": member, "stage": "perception", "reason": reason, "detail": detail}

    verdicts: list[dict[str, Any]] = [
        {"missing": [gap("dfine_x", "timed_out", "60 ms"), gap("scene", "error", "not finite")]},
        {"missing": [gap("dfine_x", "timed_out", "61 ms")]},
        {"missing": []},
    ]
    assert lacking(verdicts) == {
        "dfine_x: timed_out": {"verdicts": 2, "such_as": "60 ms"},
        "scene: error": {"verdicts": 1, "such_as": "not finite"},
    }
