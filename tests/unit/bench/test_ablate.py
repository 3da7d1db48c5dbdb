"""`roadwork-bench ablate`: what needs no server; `tests/server/test_ablate.py` has what does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from roadwork_bench.ablations.breaker import FAULTY, SIDES, build, policy_of
from roadwork_bench.ablations.detectors import growth
from roadwork_bench.ablations.findings import CASCADE, compare_tables, same_images
from roadwork_bench.ablations.float_canvas import takes_floats
from roadwork_bench.ablations.measuring import Side, Timed, in_turn, ratios, row
from roadwork_bench.ablations.settings import NAMES, Settings
from roadwork_bench.ablations.workshop import workshop
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import Settings as Fitting
from roadwork_bench.served import Block
from roadwork_bench.table import Table
from roadwork_cascade.policy import Policy, load_policy, parse_policy
from roadwork_deploy.repository import default_repository
from tritonclient.grpc import model_config_pb2

TIER = {
    "name": "precise", "deadline_ms": 500, "price_per_second": 0.0, "price_per_1000_tokens": {"input": 0, "output": 0},
    "accept": None, "reject": None, "when": None, "findings": False, "required": False,
    "members": {"large": {"kind": "scorer", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": None, "minimum_mass": 0.5}},
}  # fmt: skip


def config_of(folder: Path, name: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_sides_take_turns_and_change_who_begins() -> None:
    seen: list[str] = []

    def side(name: str) -> Side:
        def block(seconds: float) -> Timed:
            seen.append(name)
            return Timed(Block([seconds], seconds))

        return block

    found = in_turn({name: side(name) for name in "abc"}, 3, 0.5)
    assert "".join(seen) == "abccbaabc"
    assert {name: len(blocks) for name, blocks in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_of_blocks_of_one_round_so_that_a_slow_minute_cancels() -> None:
    speeds = [1.0, 5.0, 0.5]
    blocks = {
        "one": [Timed(Block([0.2 * s] * 5, s), 0.3 * s) for s in speeds],
        "two": [Timed(Block([0.1 * s] * 10, s), 0.2 * s) for s in speeds],
    }
    found = {one["measure"]: one for one in ratios(blocks, "one", "two", in_flight=1)}
    assert found["latency"]["median"] == pytest.approx(2.0)
    assert found["throughput"]["median"] == pytest.approx(0.5)
    assert found["CPU time"]["median"] == pytest.approx(3.0)  # 60 ms an image against 20 ms, at speed 1
    assert found["latency"]["interval_95"] == pytest.approx([2.0, 2.0])
    assert row("one", blocks["one"])["images"] == 15
    assert "cpu_milliseconds_an_image" not in row("bare", [Timed(Block([0.1], 0.1))])


def test_growth_is_what_each_copy_after_the_first_adds() -> None:
    def blocks(milliseconds: float) -> list[Timed]:
        return [Timed(Block([milliseconds / 1000] * 3, 1.0))] * 3

    found = growth({"served 1": blocks(20), "served 5": blocks(68), "bare 1": blocks(10), "bare 5": blocks(50)}, 5)
    assert found["bare"]["median"] == pytest.approx(10.0)
    assert found["served"]["median"] == pytest.approx(12.0)
    assert found["server"]["median"] == pytest.approx(2.0)


def test_a_network_without_its_cast_answers_the_same(tmp_path: Path, repository: Path) -> None:
    source, target = default_repository() / "scene" / "1" / "model.onnx", tmp_path / "float.onnx"
    takes_floats(source, target)
    (given,) = onnx.load(str(target)).graph.input
    assert given.type.tensor_type.elem_type == TensorProto.FLOAT
    canvas = np.random.default_rng(0).integers(0, 256, (1, 640, 640, 3), dtype=np.uint8)
    answers = [
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"canvas": array})[0]
        for path, array in ((source, canvas), (target, canvas.astype(np.float32)))
    ]
    assert np.allclose(answers[0], answers[1], atol=1e-5)
    with pytest.raises(BenchError, match="not only cast"):  # this one slices first
        takes_floats(repository / "scene" / "1" / "model.onnx", target)


def test_a_workshop_builds_what_was_asked_for(repository: Path) -> None:
    with workshop(repository) as shop:
        parts = [shop.member("eye", "eye_2", instances=2, cached=True), shop.member("scene", "scene")]
        (repository / "decode" / "1" / "model.py").write_text("")
        decode = shop.decode("decode")
        shop.ensemble("all", parts, decode=decode)
        shop.fan_out("bls", parts, instances=3)
        eye, both = config_of(shop.folder, "eye_2"), config_of(shop.folder, "all")
        assert (eye.name, eye.instance_group[0].count, eye.response_cache.enable) == ("eye_2", 2, True)
        assert not config_of(shop.folder, "scene").response_cache.enable
        assert (shop.folder / "eye_2" / "1" / "model.onnx").is_file()
        assert [step.model_name for step in both.ensemble_scheduling.step] == ["decode", "eye_2", "scene"]
        names = ["eye_2_boxes", "eye_2_scores", "eye_2_classes", "scene_presence"]
        assert [output.name for output in both.output] == names
        assert [output.name for output in config_of(shop.folder, "bls").output] == names
        assert shop.loaded == ["eye_2", "scene", "decode", "all", "bls"]
        with pytest.raises(BenchError, match="decode is no detector"):
            shop.member("decode", "again")
        with pytest.raises(BenchError, match="'nobody' is not in"):
            shop.member("nobody", "nobody")
        folder = shop.folder
    assert not folder.exists()


def test_the_two_cascades_of_the_breaker_differ_in_their_breaker_alone() -> None:
    source = default_repository()
    with workshop(source) as shop:
        build(shop, source)
        policies = [load_policy(shop.folder / name / "policy.yaml").to_dict() for name in SIDES.values()]
        breakers = [policy.pop("breaker") for policy in policies]
        names = [policy.pop("name") for policy in policies]
        assert policies[0] == policies[1]
        assert names == ["breaker-on", "breaker-off"]
        assert breakers[0]["minimum"] < 10 < 1000 < breakers[1]["minimum"]
        members = [member.name for _, member in policy_of(source, "breaker on", "centernet_nano").members()]
        assert set(members) == {"scene", "centernet_nano", FAULTY}
        assert [output.name for output in config_of(shop.folder, FAULTY).output] == ["boxes", "scores", "classes"]
        assert not (shop.folder / FAULTY / "1" / "model.onnx").exists()


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    data = make_policy().to_dict()
    routes = [{"name": "medium", "when": None, "climb": ["precise"]}]
    return parse_policy({**data, "version": 2, "tiers": [TIER], "routes": routes, "absent_tiers": "degrade",
                         "budget": {"tokens": None, "cost": None}})  # fmt: skip


def with_tier(table: Table, truth_told: float) -> Table:
    rng = np.random.default_rng(7)
    for one in table.rows:
        logit = truth_told * (2 * one.roadwork - 1) + rng.normal(0, 1)
        one.scores["large"] = round(float(1 / (1 + np.exp(-logit))), 6)
        one.tokens["large"] = [100, 1]
    table.kinds["large"] = "scorer"
    return table


def test_findings_that_tell_the_truth_are_seen_to(make_table: Callable[..., Table], policy: Policy) -> None:
    picture, findings = with_tier(make_table(12, 6), 0.2), with_tier(make_table(12, 6), 4.0)
    found = compare_tables(picture, findings, policy, Fitting(exit_groups=2, folds=3))
    change = found["changes"]["large alone"]
    assert change["mcc_gain"] > 0.2
    assert change["only_second_right"] > change["only_first_right"]
    assert change["mcnemar_p"] < 0.05
    assert {entry["what"] for entry in found["rows"]} == {CASCADE, "large alone"}
    assert found["input_tokens_mean"]["with findings"] == {"large": 100.0}
    json.dumps(found)


def test_tables_of_other_images_are_refused(make_table: Callable[..., Table]) -> None:
    table = make_table(2, 2)
    other = copy.deepcopy(table)
    other.rows[0].file = "strange.jpg"
    with pytest.raises(BenchError, match="2 are in one alone"):
        same_images(table, other)
    other = copy.deepcopy(table)
    other.rows[1].roadwork = not other.rows[1].roadwork
    with pytest.raises(BenchError, match="label or group"):
        same_images(table, other)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], f"no ablation is called nothing; there are: all, {', '.join(NAMES)}"),
        (["cache", "--in-flight", "1,many"], "--in-flight is '1,many'"),
        (["cache", "--in-flight", "0"], "--in-flight takes whole numbers from 1"),
        (["cache", "--seconds", "1", "--block-seconds", "2"], "--block-seconds is 2"),
        (["detectors", "--most", "1"], "--most is 1"),
        (["findings", "--table", "no/such.json"], "no/such.json: no such file; write it with: roadwork-bench record"),
        (["cache", "--model-repository", "no/such"], "no/such is not a folder"),
    ],
)  # fmt: skip
def test_bad_arguments_end_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("roadwork-bench ablate: ")
    assert said in last


def test_every_ablation_asks_a_question() -> None:
    import importlib

    for name in NAMES:
        assert importlib.import_module(f"roadwork_bench.ablations.{name}").QUESTION.endswith("?")
    assert Settings(seconds=60, block=2).rounds(3) == 10
    assert Settings(seconds=1, block=1).rounds(3) == 3
