"""The catalogue of models: the shipped file is right, and a wrong one is told with its entry and field."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from roadwork_export.catalogue import (
    MEASURES,
    PRECISIONS,
    STATUSES,
    CatalogueError,
    load_catalogue,
    parse_catalogue,
)
from roadwork_export.commands import catalogue as command
from roadwork_export.registry import family_names

PLAN = """
Florence-2; DINOv3; DINOv3 heads; YOLO-Master-N; YOLO26-X; YOLO11-X; RT-DETRv3-R50; D-FINE-X; RF-DETR-large;
Grounding DINO 1.6 Pro; SAM 3 Detector; ADFNeT; Qwen3-VL-4B as detector; dots.ocr; DeepSeek-OCR; GOT-OCR 2.0; GotOcr2;
PaddleOCR-VL; MinerU 2.5; LightOnOCR; Nanonets-OCR; MonkeyOCR; Granite Docling; Dolphin; OlmOCR2; ChandraOCR;
Infinity Parser; GPT-5; Azure Document Intelligence; Gemini 2.5 Pro; Depth Anything 3; SAM 3 Agent; CoTracker 3;
Anomaly-OV; AnomalyCLIP; Qwen3-VL-4B; Molmo 2-4B; Molmo 2-8B; Phi-4-Multimodal; Qwen3-VL-8B-Thinking; Qwen3-VL-32B;
Llama 4 Maverick; Llama 4 Scout; Qwen3-VL-30B-A3B-Thinking; Ovis2-34B; MoE-LLaVA; Qwen3-VL-72B; Qwen3-VL-72B-Instruct;
Qwen3-VL-72B-Instruct-AWQ; InternVL3.5-78B; Qwen3-VL-235B-A22B; DeepSeek-V3.2; DeepSeek-V3.2-Exp;
DeepSeek-R1-Distill-Qwen-70B; DeepSeek-R1-Distill-Qwen-70B-Vision; OWLv2; DEIMv2; LW-DETR; RT-DETR; Qwen3-VL-2B;
Qwen3-VL-8B-Instruct; LLaVA-UHD; ModernBERT classifier
"""
NAMES = [" ".join(name.split()) for name in PLAN.split(";")]
SIZES = """
yolo11n yolo11s yolo11m yolo11l yolo11x yolo12n yolo12s yolo12m yolo12l yolo12x yolo26n yolo26s yolo26m yolo26l yolo26x
rfdetr_nano rfdetr_small rfdetr_medium rfdetr_base rfdetr_large dfine_n dfine_s dfine_m dfine_l dfine_x rtdetr_v2_r18
rtdetr_v2_r34 rtdetr_v2_r50 rtdetr_v2_r101 grounding_dino_tiny grounding_dino_base owlv2_base owlv2_large sam3
dinov2_small dinov2_base dinov2_large dinov3_vits16 dinov3_vitb16 dinov3_vitl16 dinov3_convnext_tiny vit_base
clip_vit_b32 clip_vit_b16 clip_vit_l14 depth_anything_v2_small depth_anything_v2_base
depth_anything_v2_large
"""

CATALOGUE: dict[str, Any] = {
    "version": 1,
    "defaults": {"boxes": {"weight": 1.0, "limits": {"fp32": {"box_px": 1.0, "score": 0.01}}}},
    "entries": [
        {
            "name": "one", "level": ["1"], "role": "boxes", "family": "dfine", "source": "a/b", "licence": "Apache-2.0",
            "commercial": "yes", "parameters": 2.6e6, "input": 640, "served": "onnx", "status": "runs here",
        },
        {
            "name": "two", "plan": ["Two-X"], "level": ["3"], "role": "scorer", "family": None, "source": "a/c",
            "licence": "MIT", "commercial": "terms", "parameters": 4e9, "input": None, "served": "vllm",
            "serving": {
                "architecture": "TwoForGeneration", "remote_code": False, "params": 4.0, "context": 4096,
                "verified": "a test",
            },
            "status": "needs weights",
        },
        {
            "name": "three", "level": ["1"], "role": "words", "family": None, "source": None, "licence": "proprietary",
            "commercial": "no", "parameters": None, "input": None, "served": "none", "status": "rejected",
            "reason": "reads documents",
        },
    ],
}  # fmt: skip


def changed(number: int, **values: Any) -> dict[str, Any]:
    """CATALOGUE with these values in an entry; a value of `...` takes the field out."""
    data = copy.deepcopy(CATALOGUE)
    entry = data["entries"][number]
    for key, value in values.items():
        if value is ...:
            entry.pop(key)
        else:
            entry[key] = value
    return data


@pytest.fixture
def run(run_of: Callable[..., Callable[..., str]]) -> Callable[..., str]:
    return run_of(command)


class TestShippedCatalogue:
    def test_is_valid_and_read_once(self) -> None:
        assert len(load_catalogue()) > 100
        assert load_catalogue() is load_catalogue()

    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_of_the_plan_has_an_entry(self, name: str) -> None:
        assert load_catalogue().planned(name)

    def test_names_of_the_plan_are_those_of_the_test(self) -> None:
        assert {name for entry in load_catalogue() for name in entry.plan} == set(NAMES)

    @pytest.mark.parametrize("name", SIZES.split())
    def test_every_size_that_can_be_exported_has_its_facts(self, name: str) -> None:
        entry = load_catalogue().get(name)
        assert entry.family in family_names()
        assert entry.source
        assert entry.parameters
        assert entry.input
        assert entry.status != "rejected"
        assert set(entry.limits_at("fp32")) == set(MEASURES[entry.role])
        assert command.export_command(entry)

    def test_every_family_runs_here_at_one_size_at_least(self) -> None:
        running = {entry.family for entry in load_catalogue().select(status="runs here")}
        # Their smallest takes minutes to export on two cores; tests do it with less depth.
        assert set(family_names()) - running == {"grounding_dino", "owlv2", "sam3"}

    def test_what_is_rejected_has_no_vote_and_no_command(self) -> None:
        for entry in load_catalogue().select(status="rejected"):
            assert entry.weight is None
            assert command.export_command(entry) is None

    def test_committed_models_are_in_it(self) -> None:
        repository = Path(__file__).parents[3] / "model_repository"
        own = {entry.name for entry in load_catalogue().select(family="own")}
        plumbing = {"decode", "glance", "perception", "roadwork", "roadwork_stream"}
        committed = {path.parent.name for path in repository.glob("*/MODEL_CARD.md")}
        assert committed - plumbing <= own
        assert all((repository / name).is_dir() for name in own)

    def test_a_name_that_was_changed_says_why(self) -> None:
        for name in ("Qwen3-VL-72B", "InternVL3.5-78B", "RT-DETRv3-R50", "Grounding DINO 1.6 Pro", "ADFNeT"):
            assert all(entry.changed for entry in load_catalogue().planned(name))


class TestEntry:
    def test_memory_is_parameters_times_bytes(self) -> None:
        entry = parse_catalogue(CATALOGUE).get("one")
        assert [entry.memory(p) for p in PRECISIONS] == [2.6e6 * 4, 2.6e6 * 2, 2.6e6]
        assert parse_catalogue(CATALOGUE).get("three").memory("fp32") is None

    def test_memory_of_an_unknown_precision_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no precision 'fp5'"):
            parse_catalogue(CATALOGUE).get("one").memory("fp5")

    def test_limits_of_the_entry_come_before_those_of_its_role(self) -> None:
        data = changed(0, limits={"fp32": {"box_px": 3.0}, "int8": {"score": 0.2}})
        entry = parse_catalogue(data).get("one")
        assert entry.limits_at("fp32") == {"box_px": 3.0, "score": 0.01}
        assert entry.limits_at("int8") == {"score": 0.2}
        assert entry.limits_at("fp16") == {}

    def test_limits_are_of_exported_models(self) -> None:
        assert not parse_catalogue(CATALOGUE).get("two").limits

    def test_weight_of_the_entry_comes_before_that_of_its_role(self) -> None:
        assert parse_catalogue(CATALOGUE).get("one").weight == 1.0
        assert parse_catalogue(changed(0, weight=0.3)).get("one").weight == 0.3
        assert parse_catalogue(changed(0, weight=None)).get("one").weight is None

    @pytest.mark.parametrize(("bare", "word"), [(True, "yes"), (False, "no")])
    def test_bare_yes_and_no_of_yaml_are_words(self, bare: bool, word: str) -> None:
        assert parse_catalogue(changed(0, commercial=bare)).get("one").commercial == word


class TestValidation:
    FIELDS = (
        "level", "role", "family", "source", "licence", "commercial", "parameters", "input", "served", "status",
    )  # fmt: skip

    @pytest.mark.parametrize("field", FIELDS)
    def test_missing_field(self, field: str) -> None:
        with pytest.raises(CatalogueError, match=rf"^catalogue\.yaml: one: {field} is missing$"):
            parse_catalogue(changed(0, **{field: ...}))

    @pytest.mark.parametrize(
        ("number", "values", "problem"),
        [
            (0, {"licence": 3}, "one: licence must be text, got 3"),
            (0, {"licence": " "}, "one: licence must be text, got ' '"),
            (0, {"plan": "X"}, "one: plan must be a list of texts, got 'X'"),
            (0, {"plan": ["X", "X"]}, "one: plan has an item twice"),
            (0, {"level": [1]}, "one: level must be a list of texts"),
            (0, {"level": ["6"]}, "one: level must be of 0, 1, 2, 3, 4, 5, 5.5, got '6'"),
            (0, {"role": "box"}, "one: role must be one of boxes"),
            (0, {"family": "yolo"}, "one: family must be null or one of "),
            (0, {"commercial": "maybe"}, "one: commercial must be one of yes, agpl"),
            (0, {"gated": "no"}, "one: gated must be true or false, got 'no'"),
            (0, {"parameters": "2.6e6"}, "one: parameters must be a number over 0, got '2.6e6' (in YAML: 2.6e+6"),
            (0, {"parameters": True}, "one: parameters must be a number over 0, got True"),
            (0, {"parameters": float("nan")}, "one: parameters must be a number over 0, got nan"),
            (0, {"input": 640.0}, "one: input must be null or a whole number of pixels, got 640.0"),
            (0, {"weight": -1}, "one: weight must be a number of at least 0, got -1"),
            (0, {"arguments": ["n"]}, "one: arguments must be a mapping from texts"),
            (0, {"licens": "MIT"}, "one: no field 'licens': did you mean licence?"),
            (0, {"status": "works"}, "one: status must be one of runs here, needs weights"),
            (0, {"name": "One 1"}, "One 1: name must be lower-case letters, digits and _"),
            (0, {"name": "../one"}, "../one: name must be lower-case letters, digits and _"),
            (1, {"name": "one"}, "one: name is used twice"),
            (0, {"limits": [1.0]}, "one: limits must be a mapping from texts"),
            (0, {"limits": {"fp8": {"score": 1}}}, "one: limits.fp8 is not of a precision of fp32, fp16, int8"),
            (0, {"limits": {"fp32": 1.0}}, "one: limits.fp32 must be a mapping of box_px"),
            (0, {"limits": {"fp32": {"iou": 1}}}, "one: limits.fp32.iou is not measured of boxes; known are box_px"),
            (0, {"limits": {"fp32": {"score": "low"}}}, "one: limits.fp32.score must be a number of at least 0"),
            (
                0,
                {"role": "scene", "limits": {"fp32": {"box_px": 1}}},
                "one: limits.fp32.box_px is not measured of scene",
            ),
            (1, {"limits": {"fp32": {"score": 0.1}}}, "two: limits are of exported models"),
            (2, {"reason": ...}, "three: reason is missing: a rejected model says why"),
            (0, {"reason": "dull"}, "one: reason is of rejected models only"),
            (2, {"served": "vllm"}, "three: served must be none for rejected models"),
            (0, {"served": "none"}, "one: served must be none for rejected models"),
            (2, {"instead": "four"}, "three: instead names no other entry: 'four'"),
            (2, {"instead": "three"}, "three: instead names no other entry: 'three'"),
            (0, {"instead": "two"}, "one: instead is of rejected models only"),
            (0, {"family": None}, "one: family is missing: what is served as ONNX has to be exported"),
            (0, {"changed": "for fun"}, "one: changed says why the plan's name is not its name"),
            (1, {"serving": ...}, "two: serving is missing: what vLLM serves has an architecture"),
            (1, {"parameters": 5e9}, "two: serving.params must be parameters in 1e9, got 4"),
        ],
    )
    def test_names_entry_and_field(self, number: int, values: dict[str, Any], problem: str) -> None:
        with pytest.raises(CatalogueError, match="^" + re.escape(f"catalogue.yaml: {problem}")):
            parse_catalogue(changed(number, **values))

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"version": 2}, "catalogue.yaml: version must be 1, got 2"),
            ({"entries": []}, "catalogue.yaml: entries must be a list of at least one model"),
            ({"entries": ["x"]}, "catalogue.yaml: entry 1: must be a mapping, got 'x'"),
            ({"entries": [{}]}, "catalogue.yaml: entry 1: name is missing"),
            ({"models": []}, "catalogue.yaml: no field 'models'"),
            ({"defaults": {"box": {}}}, "catalogue.yaml: defaults: no field 'box': did you mean boxes?"),
            ({"defaults": {"boxes": {"weight": "1"}}}, "catalogue.yaml: defaults: boxes: weight must be a number"),
        ],
    )
    def test_names_what_is_wrong_with_the_whole(self, values: dict[str, Any], problem: str) -> None:
        with pytest.raises(CatalogueError, match="^" + re.escape(problem)):
            parse_catalogue({**CATALOGUE, **values})

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("version: [1", "mine.yaml: is not YAML: line "),
            ("version: 1\nversion: 1", "mine.yaml: version: is given twice (line 2)"),
            ("- 1", "mine.yaml: must be a mapping, got [1]"),
        ],
    )
    def test_a_file_that_is_none(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(CatalogueError, match="^" + re.escape(problem)):
            load_catalogue(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogueError, match=r"^mine\.yaml: cannot be read"):
            load_catalogue(tmp_path / "mine.yaml")

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(CATALOGUE))
        assert load_catalogue(path).names == ("one", "two", "three")


class TestFinding:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("yolo11", "no model 'yolo11': did you mean yolo11n, yolo11s, yolo11m?"),
            ("D-Fine-N", "no model 'D-Fine-N': did you mean dfine_n"),
            ("YOLO26-X", "no model 'YOLO26-X': the plan's name of yolo26x"),
            ("qqqqqqqqqqqq", "no model 'qqqqqqqqqqqq'"),
        ],
    )
    def test_unknown_name_suggests_close_ones(self, name: str, message: str) -> None:
        with pytest.raises(CatalogueError, match="^" + re.escape(message)):
            load_catalogue().get(name)

    def test_contains_and_get(self) -> None:
        catalogue = load_catalogue()
        assert "yolo11n" in catalogue
        assert "yolo11" not in catalogue
        assert catalogue.get("yolo11n").name == "yolo11n"

    def test_filters_hold_together(self) -> None:
        found = load_catalogue().select(level="1", licence="agpl", family="ultralytics", status="runs here")
        assert [entry.name for entry in found] == ["yolo11n", "yolo12n", "yolo26n"]


class TestCommands:
    def test_list_is_a_table_of_all(self, run: Callable[..., str]) -> None:
        head, *rows = run("list").splitlines()
        assert head.split() == ["name", "plan", "level", "role", "licence", "commercial", "parameters", "status"]
        assert len(rows) == len(load_catalogue())
        assert {row[head.index("status") :] for row in rows} == set(STATUSES)

    @pytest.mark.parametrize(
        ("options", "holds"),
        [
            (("--level", "5.5"), lambda entry: "5.5" in entry["level"]),
            (("--licence", "apache"), lambda entry: "Apache" in entry["licence"]),
            (("--family", "dfine"), lambda entry: entry["family"] == "dfine"),
            (("--status", "rejected"), lambda entry: entry["status"] == "rejected"),
        ],
    )
    def test_list_filters(
        self, run: Callable[..., str], options: tuple[str, ...], holds: Callable[[dict[str, Any]], bool]
    ) -> None:
        found = json.loads(run("list", *options, "--json"))
        assert found
        assert all(map(holds, found))
        expected = sum(holds(entry.to_dict()) for entry in load_catalogue())
        assert len(found) == expected

    def test_list_of_nothing(self, run: Callable[..., str]) -> None:
        assert run("list", "--licence", "no such") == ""
        assert json.loads(run("list", "--licence", "no such", "--json")) == []

    def test_show_prints_terms_memory_and_command(self, run: Callable[..., str]) -> None:
        text = run("show", "yolo26x")
        for part in ("YOLO26-X", "AGPL-3.0", "58.99 M", "fp32 236.0 MB, fp16 118.0 MB, int8 59.0 MB"):
            assert part in text
        assert "roadwork-export onnx yolo26x --weights yolo26x.pt --accept-licence AGPL-3.0" in text

    def test_show_takes_a_name_of_the_plan_and_says_why_it_changed(self, run: Callable[..., str]) -> None:
        text = run("show", "InternVL3.5-78B")
        assert text.startswith("internvl3_5_38b\n")
        assert "78B is a size of InternVL3" in text
        assert "roadwork-export tier internvl3_5_38b --weights OpenGVLab/InternVL3_5-38B-HF" in text

    def test_show_says_why_not(self, run: Callable[..., str]) -> None:
        text = run("show", "cotracker3")
        assert "no commercial use" in text
        assert re.search(r"^ +command +none$", text, re.M)

    def test_show_takes_every_entry(self, run: Callable[..., str]) -> None:
        for name in load_catalogue().names:
            assert run("show", name).startswith(f"{name}\n")
            shown = json.loads(run("show", name, "--json"))
            assert shown["name"] == name
            assert set(shown["memory"]) == set(PRECISIONS)

    def test_show_as_json_lists_all_that_stand_for_a_name(self, run: Callable[..., str]) -> None:
        assert [entry["name"] for entry in json.loads(run("show", "Florence-2", "--json"))] == [
            "florence2_base",
            "florence2_large",
        ]

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("yolox_nano", "roadwork-export build yolox_nano --weights FOLDER"),
            ("tiny_reasoner", "roadwork-export tier tiny_reasoner --weights FOLDER --kind reasoner"),
            ("dinov3_vits16", "--accept-licence 'DINOv3 License'"),
            ("dfine_n", "roadwork-export onnx dfine_n --weights ustc-community/dfine-nano-coco"),
        ],
    )
    def test_command_that_exports(self, name: str, line: str) -> None:
        assert (command.export_command(load_catalogue().get(name)) or "").endswith(line)

    @pytest.mark.parametrize("name", ["sign_text", "gpt_5", "da3_metric_large", "dots_ocr"])
    def test_no_command_where_nothing_is_exported(self, name: str) -> None:
        assert command.export_command(load_catalogue().get(name)) is None
