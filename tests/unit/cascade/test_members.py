"""Output tensors become answers, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from roadwork_cascade.engine import EngineError
from roadwork_cascade.members import Answer, read_answer, read_prepared
from roadwork_cascade.policy import Policy
from roadwork_cascade.taxonomy import load_taxonomy

CONE, POLICE_VEHICLE = 0, 13


def read(policy: Policy, name: str, prefix: str = "", **arrays: Any) -> Answer:
    stage, member = next((stage, member) for stage, member in policy.members() if member.name == name)
    return read_answer(member, stage, {k: np.asarray(v) for k, v in arrays.items()}, load_taxonomy(), prefix)


def detections(*found: tuple[float, int], slots: int = 5) -> dict[str, Any]:
    scores, classes = np.zeros((1, slots), np.float32), np.full((1, slots), -1, np.int32)
    for index, (score, kind) in enumerate(found):
        scores[0, index], classes[0, index] = score, kind
    return {"boxes": np.tile(np.array([1, 2, 3, 4], np.float32), (1, slots, 1)), "scores": scores, "classes": classes}


def test_the_raw_answer_is_the_largest_score_times_evidence(policy: Policy) -> None:
    # A sure police car speaks less for roadwork than a likely cone.
    answer = read(policy, "yolox", **detections((0.9, POLICE_VEHICLE), (0.4, CONE)))
    assert answer.reading.raw == pytest.approx(0.4)
    assert answer.probability == pytest.approx(0.4)
    assert answer.reading.boxes is not None
    assert answer.reading.boxes.xyxy.shape == (2, 4)


def test_a_detector_that_saw_nothing_has_spoken(policy: Policy) -> None:
    answer = read(policy, "yolox", **detections())
    assert answer.reading.raw == 0.0
    assert answer.probability == 0.05


def test_in_an_ensemble_outputs_carry_the_members_name(policy: Policy) -> None:
    assert read(policy, "scene", prefix="scene_", scene_presence=[[0.7]]).probability == pytest.approx(0.7)


def test_a_text_member_that_read_nothing_does_not_enter_the_pool(policy: Policy) -> None:
    answer = read(policy, "sign_text", presence=[0.0], words=np.array([b"[]"], dtype=object))
    assert answer.probability is None


def test_rounding_just_outside_0_and_1_is_put_back(policy: Policy) -> None:
    assert read(policy, "scene", presence=[[1.0000001]]).reading.raw == 1.0


WORD = b'[{"text": "a", "keyword": "b", "language": "en", "score": 0.5, "box": [1, 2, 3, %s]}]'


@pytest.mark.parametrize(
    ("member", "arrays", "message"),
    [
        ("scene", {}, "scene: presence: the model gave no such output"),
        ("scene", {"presence": [[np.nan]]}, "scene: presence: has a value that is not finite"),
        ("scene", {"presence": [[1.5]]}, "scene: presence: must be in [0, 1], got 1.5 to 1.5"),
        ("scene", {"presence": [[0.1, 0.2]]}, "scene: presence: must hold 1 numbers, got 2"),
        ("yolox", detections((0.5, 99)), "yolox: classes: must be -1 to 15, got -1 to 99"),
        ("yolox", {**detections(), "boxes": [[1.0, 2.0]]}, "yolox: boxes: must hold 20 numbers, got 2"),
        ("sign_text", {"presence": [0.5], "words": np.array([b"{"], dtype=object)}, "words: must be one JSON text"),
        ("sign_text", {"presence": [0.5], "words": np.array([b"{}"], dtype=object)}, "words: must be a list"),
        ("sign_text", {"presence": [0.5], "words": np.array([b"[1]"], dtype=object)}, "sign_text: words: TypeError"),
        ("sign_text", {"presence": [0.5], "words": np.array([WORD % b"NaN"], dtype=object)}, "must be finite"),
    ],
)
def test_what_no_member_may_say_is_an_error_naming_model_and_tensor(
    policy: Policy, member: str, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError) as refusal:
        read(policy, member, **arrays)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "decode: canvas: must be uint8"),
        ({"canvas": np.zeros((1, 8, 8, 3), np.float32)}, "got float32 [1, 8, 8, 3]"),
        ({"canvas": np.zeros((1, 8, 8, 3), np.uint8), "geometry": np.zeros((1, 5))}, "must be positive"),
    ],
)
def test_a_canvas_that_is_none_is_an_error(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(EngineError) as refusal:
        read_prepared("decode", arrays)
    assert message in str(refusal.value)
