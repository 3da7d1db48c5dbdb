"""Stand-ins: small ONNX models with the contract's signatures in a small repository, and tables of made-up scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from roadwork_bench.table import Row, Table
from roadwork_cascade.policy import Policy, parse_policy

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = ROOT / "model_repository"

SCENE_CONFIG = """name: "{name}"
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] }} ]
output [ {{ name: "presence" data_type: TYPE_FP32 dims: [ 1 ] }} ]
"""
BOXES_CONFIG = """name: "{name}"
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] }} ]
output [
  {{ name: "boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] }},
  {{ name: "scores" data_type: TYPE_FP32 dims: [ 100 ] }},
  {{ name: "classes" data_type: TYPE_INT32 dims: [ 100 ] }}
]
"""
GLANCE_CONFIG = """name: "glance"
platform: "ensemble"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] },
  { name: "geometry" data_type: TYPE_FP32 dims: [ 5 ] },
  { name: "scene_presence" data_type: TYPE_FP32 dims: [ 1 ] }
]
ensemble_scheduling { step [
  { model_name: "decode" model_version: -1
    input_map { key: "image" value: "image" }
    output_map { key: "canvas" value: "canvas" }
    output_map { key: "geometry" value: "geometry" } },
  { model_name: "scene" model_version: -1
    input_map { key: "canvas" value: "canvas" }
    output_map { key: "presence" value: "scene_presence" } }
] }
"""
PERCEPTION_CONFIG = """name: "perception"
platform: "ensemble"
max_batch_size: 8
input [ { name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] } ]
output [
  { name: "eye_boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] },
  { name: "eye_scores" data_type: TYPE_FP32 dims: [ 100 ] },
  { name: "eye_classes" data_type: TYPE_INT32 dims: [ 100 ] }
]
ensemble_scheduling { step [
  { model_name: "eye" model_version: -1
    input_map { key: "canvas" value: "canvas" }
    output_map { key: "boxes" value: "eye_boxes" }
    output_map { key: "scores" value: "eye_scores" }
    output_map { key: "classes" value: "eye_classes" } }
] }
"""


def _mean_red(scale: float) -> tuple[list, list]:
    """Nodes from `canvas` to `level` [N, 1]: mean of the red channel over 255, times `scale`."""
    nodes = [
        helper.make_node("Slice", ["canvas", "zero", "one", "three"], ["red"]),
        helper.make_node("Cast", ["red"], ["red32"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["red32"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["level"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([3], np.int64), "three"),
        numpy_helper.from_array(np.array([scale / 255], np.float32), "scale"),
    ]
    return nodes, constants


def _save(nodes: list, outputs: list, constants: list, path: Path) -> None:
    canvas = helper.make_tensor_value_info("canvas", TensorProto.UINT8, ["N", 640, 640, 3])
    graph = helper.make_graph(nodes, "stand_in", [canvas], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def save_scene(path: Path, scale: float = 1.0) -> None:
    """presence = mean of the red channel over 255, times `scale`."""
    nodes, constants = _mean_red(scale)
    nodes[-1].output[0] = "presence"
    _save(nodes, [helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["N", 1])], constants, path)


def save_eye(path: Path, scale: float = 1.0) -> None:
    """One box [100, 200, 300, 400] of class 7 (evidence 0.9), its score as `save_scene`'s presence. Batches of one."""
    nodes, constants = _mean_red(scale)
    first = np.zeros((1, 100), np.float32)
    first[0, 0] = 1
    boxes = np.zeros((1, 100, 4), np.float32)
    boxes[0, 0] = [100, 200, 300, 400]
    classes = np.full((1, 100), -1, np.int32)
    classes[0, 0] = 7
    constants += [
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(boxes, "box"),
        numpy_helper.from_array(classes, "class"),
    ]
    nodes += [
        helper.make_node("Mul", ["level", "first"], ["scores"]),
        helper.make_node("Identity", ["box"], ["boxes"]),
        helper.make_node("Identity", ["class"], ["classes"]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 100, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 100]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, ["N", 100]),
    ]
    _save(nodes, outputs, constants, path)


@pytest.fixture(name="save_scene")
def _save_scene() -> Callable[..., None]:
    return save_scene


@pytest.fixture(name="save_eye")
def _save_eye() -> Callable[..., None]:
    return save_eye


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """decode as it is, a scene model and a detector `eye` that both measure red, and the ensembles over them."""
    folder = tmp_path / "model_repository"
    (folder / "decode" / "1").mkdir(parents=True)
    shutil.copy(REPOSITORY / "decode" / "config.pbtxt", folder / "decode")
    shutil.copy(REPOSITORY / "decode" / "1" / "decoding.py", folder / "decode" / "1")
    configs = {
        "scene": SCENE_CONFIG.format(name="scene"),
        "eye": BOXES_CONFIG.format(name="eye"),
        "glance": GLANCE_CONFIG,
        "perception": PERCEPTION_CONFIG,
    }
    for name, text in configs.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text)
    save_scene(folder / "scene" / "1" / "model.onnx")
    save_eye(folder / "eye" / "1" / "model.onnx")
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Six drives of four frames: red ones show roadwork, blue ones do not."""
    folder = tmp_path / "photographs"
    rng = np.random.default_rng(1)
    for label, level in (("roadwork", 200), ("no_roadwork", 40)):
        (folder / label).mkdir(parents=True)
        for drive in "abc":
            for frame in range(4):
                picture = np.zeros((60, 80, 3), np.uint8)
                picture[..., 2] = level + rng.integers(0, 30)
                picture[..., 0] = 90
                cv2.imwrite(str(folder / label / f"{label}_{drive}_{frame:03d}.png"), picture)
    return folder


def make_policy(**changes: object) -> Policy:
    """Three stages with members scene, eye, other and sign."""
    member = {"weight": 1.0, "a": 1.0, "b": 0.0, "nothing": None}
    stage = {"model": None, "prepare": None, "needs": "canvas", "deadline_ms": 1000, "price_per_second": 0.0}
    open_ended = {"accept": None, "reject": None, "when": None}
    data = {
        "version": 1,
        "name": "made-up",
        "fitted": None,
        "threshold": 0.5,
        "quorum": 0.5,
        "deadline_ms": 5000,
        "all_stages": False,
        "pool": {"alpha": 1.0, "beta": 0.0},
        "agreement": {"share": 0.667},
        "breaker": {"window": 20, "minimum": 20, "failure_rate": 1.0, "open_seconds": 10},
        "fusion": {"iou": 0.55, "score": 0.25},
        "stages": [
            stage
            | {"name": "glance", "model": "glance", "prepare": "decode", "needs": "image"}
            | {"accept": 0.95, "reject": 0.05, "when": None}
            | {"members": {"scene": member | {"kind": "scene"}}},
            stage
            | {"name": "perception", "model": "perception"}
            | open_ended
            | {
                "members": {
                    "eye": member | {"kind": "boxes", "nothing": 0.1},
                    "other": member | {"kind": "boxes", "nothing": 0.2},
                }
            },
            stage
            | {"name": "sign_text", "needs": "image"}
            | open_ended
            | {"when": {"min_probability": 0.1, "max_probability": 0.9}}
            | {"members": {"sign": member | {"kind": "text", "weight": 0.5, "nothing": 0.45}}},
        ],
        **changes,
    }
    return parse_policy(data)


@pytest.fixture(name="make_policy")
def _make_policy() -> Callable[..., Policy]:
    return make_policy


@pytest.fixture
def small_policy() -> Policy:
    """For `repository`: scene, then eye."""
    data = make_policy().to_dict()
    del data["stages"][2]
    del data["stages"][1]["members"]["other"]
    return parse_policy(data)


def make_table(
    drives: int = 24,
    frames: int = 20,
    seed: int = 0,
    *,
    information: float = 2.0,
    missing: float = 0.0,
) -> Table:
    """Drives that each show roadwork or not; four members see the truth through noise of their own and of the drive.

    A member's logit is `information` times the truth (+-1), plus noise; `missing` is the share of answers left out.
    """
    rng = np.random.default_rng(seed)
    kinds = {"scene": "scene", "eye": "boxes", "other": "boxes", "sign": "text"}
    table = Table(kinds=kinds)
    for drive in range(drives):
        truth = drive % 2
        shared = rng.normal(0, 0.5)
        for frame in range(frames):
            scores = {}
            for name, kind in kinds.items():
                logit = information * (2 * truth - 1) + shared + rng.normal(0, 1.5)
                score = 1 / (1 + np.exp(-logit))
                if kind != "scene" and score < 0.12:
                    score = 0.0  # saw nothing
                if rng.random() >= missing:
                    scores[name] = round(float(score), 6)
            table.rows.append(
                Row(
                    f"drive{drive:02d}_{frame:03d}.jpg",
                    bool(truth),
                    f"drive{drive:02d}",
                    f"camera{drive % 3}",
                    size=[640, 400],
                    geometry=[640.0, 400.0, 1.0, 0.0, 120.0],
                    scores=scores,
                    ms={"decode": 5.0, "scene": 10.0, "eye": 20.0, "other": 30.0, "sign": 400.0},
                    blobs=int(rng.poisson(1 + 4 * truth)),
                )
            )
    return table


@pytest.fixture(name="make_table")
def _make_table() -> Callable[..., Table]:
    return make_table


TIERS = ("fast", "precise")


def add_tiers(policy: Policy, rng: np.random.Generator | None = None) -> Policy:
    """`small` climbed before `large`; with `rng`, bounds, weights and conditions by chance."""
    data = policy.to_dict() | {"version": 2, "absent_tiers": "degrade", "budget": {"tokens": None, "cost": None}}
    data["tiers"] = [
        {
            "name": name,
            "deadline_ms": 2000,
            "price_per_second": 0.001,
            "price_per_1000_tokens": {"input": 0.01, "output": 0.03},
            "accept": float(rng.uniform(0.6, 0.99)) if rng and rng.random() < 0.8 else None,
            "reject": float(rng.uniform(0.01, 0.4)) if rng and rng.random() < 0.8 else None,
            "when": {"min_probability": 0.1, "max_probability": 0.9} if rng and rng.random() < 0.5 else None,
            "findings": False,
            "required": False,
            "members": {
                model: {
                    "kind": "scorer",
                    "weight": float(rng.uniform(0.3, 3)) if rng else 1.0,
                    "a": float(rng.uniform(0.2, 2)) if rng else 1.0,
                    "b": float(rng.normal(0, 0.5)) if rng else 0.0,
                    "nothing": None,
                    "minimum_mass": 0.5,
                }
            },
        }
        for name, model in zip(TIERS, ("small", "large"), strict=True)
    ]
    data["routes"] = [
        {"name": "sure", "when": {"min_probability": 0.97}, "climb": []},
        {"name": "crowded", "when": {"min_boxes": 2}, "climb": ["precise"]},
        {"name": "contradictory", "when": {"disagreement": True}, "climb": ["precise"]},
        {"name": "medium", "when": None, "climb": ["fast", "precise"]},
    ]
    return parse_policy(data)


def tier_table(*sizes: int, information: float = 0.5, missing: float = 0.0) -> Table:
    """A made-up table with two tiers, the larger of which sees more, and boxes of either detector."""
    table = make_table(*sizes, information=information, missing=missing)
    rng = np.random.default_rng(7)
    for name, sees in (("small", 1.0), ("large", 2.5)):
        table.kinds[name] = "scorer"
        for row in table.rows:
            logit = sees * (2 * row.roadwork - 1) + rng.normal(0, 1.2)
            if rng.random() >= missing:
                row.scores[name] = round(float(1 / (1 + np.exp(-logit))), 6)
                row.tokens[name] = [70, 1]
                row.ms[name] = 50.0
    for row in table.rows:
        for place, name in enumerate(("eye", "other")):
            if row.scores.get(name):
                row.boxes[name] = [[7, row.scores[name] / 0.9, 100.0 * place, 10.0, 100.0 * place + 60.0, 90.0]]
                row.boxes[name][0][1] = min(1.0, row.boxes[name][0][1])
                row.scores[name] = row.boxes[name][0][1] * 0.9
    return table


@pytest.fixture(name="add_tiers")
def _add_tiers() -> Callable[..., Policy]:
    return add_tiers


@pytest.fixture(name="tier_table")
def _tier_table() -> Callable[..., Table]:
    return tier_table
