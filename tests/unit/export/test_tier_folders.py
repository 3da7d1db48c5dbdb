"""`roadwork-export tier`: a model's folder becomes a tier, or one clear error says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from roadwork_cascade.prompts import load_prompt
from roadwork_export.cli import parser
from roadwork_export.errors import ExportError
from roadwork_export.tiers import tokenizer as tokens
from roadwork_export.tiers.folder import KNOWN, write_tier
from roadwork_export.tiers.prompting import TierError
from roadwork_export.tiers.sizes import SIZES
from roadwork_export.tiers.weights import fresh, write_model

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a Qwen3-VL with random weights."""
    folder = tmp_path_factory.mktemp("models") / "random"
    tokenizer = tokens.build()
    write_model(folder, SIZES["s"], tokenizer, fresh(SIZES["s"], tokenizer))
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(model, target)
    return target


def tier(tmp_path: Path, weights: Path | str, *more: str) -> Path:
    arguments = ["tier", "mine", "--weights", str(weights), "--repository", str(tmp_path / "repository"), *more]
    parsed = parser().parse_args(arguments)
    assert parsed.run(parsed) == 0
    return tmp_path / "repository" / "mine"


def test_scorer(model: Path, tmp_path: Path) -> None:
    folder = tier(tmp_path, model, "--max-side", "256")
    prompt = load_prompt(folder / "prompt.json")
    assert prompt.kind == "scorer"
    assert prompt.image.max_side == 256
    assert prompt.prompt.count("<|image_pad|>") == 1
    asked = prompt.text("3 cone; words read: none; probability of roadwork 0.63")
    assert asked.index("<|vision_end|>") < asked.index("Detectors report: 3 cone") < asked.index("Is there roadwork")
    assert asked.endswith("<|im_start|>assistant\n")
    tokenizer = tokens.load(model)
    for text, token in {**prompt.yes, **prompt.no}.items():
        assert tokenizer.encode(text).ids == [token]
    assert set(prompt.sampling["allowed_token_ids"]) == {*prompt.yes.values(), *prompt.no.values()}
    settings = json.loads((folder / "1" / "model.json").read_text())
    assert settings["limit_mm_per_prompt"] == {"image": 1, "video": 0}
    assert settings["max_model_len"] % 128 == 0
    config = (folder / "config.pbtxt").read_text()
    assert 'backend: "vllm"' in config
    assert "decoupled: true" in config


def test_reasoner(model: Path, tmp_path: Path) -> None:
    prompt = load_prompt(tier(tmp_path, model, "--kind", "reasoner", "--question", "Is it so?") / "prompt.json")
    assert prompt.kind == "reasoner"
    assert "Is it so?" in prompt.prompt
    assert " true" in prompt.yes
    assert " false" in prompt.no
    assert not {*prompt.yes.values()} & {*prompt.no.values()}
    assert prompt.answer_schema["allOf"][0]["required"] == ["thoughts", "roadwork"]


def test_copied_weights_are_named_from_the_repository(model: Path, tmp_path: Path) -> None:
    folder = tier(tmp_path, model, "--copy")
    assert json.loads((folder / "1" / "model.json").read_text())["model"] == "mine/1/weights"
    assert (folder / "1" / "weights" / "model.safetensors").is_file()


def test_another_architectures_template(copy: Path, tmp_path: Path) -> None:
    """Placeholder and turns come from the model's own template, here in the style of Llama's and SmolVLM's."""
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}[INST]{% for p in m.content %}{% if p.type == 'image' %}<image>"
        "{% else %}{{ p.text }}{% endif %}{% endfor %}[/INST]{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    prompt = load_prompt(tier(tmp_path, copy) / "prompt.json")
    assert prompt.text(None) == "[INST]<image>Is there roadwork in this image? Answer yes or no.[/INST]A:"


def test_template_kept_by_the_processor(copy: Path, tmp_path: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert "<|image_pad|>" in load_prompt(tier(tmp_path, copy) / "prompt.json").prompt


class TestErrors:
    def refused(self, tmp_path: Path, weights: Path | str, match: str, **more: Any) -> None:
        with pytest.raises(TierError, match=match):
            write_tier("mine", tmp_path / "repository", weights=str(weights), **more)
        assert not (tmp_path / "repository" / "mine").exists()

    def test_no_such_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, tmp_path / "nothing", "not there")

    def test_no_weights_named(self, tmp_path: Path) -> None:
        with pytest.raises(TierError, match="--weights is missing"):
            write_tier("mine", tmp_path / "repository")

    def test_no_tokenizer(self, copy: Path, tmp_path: Path) -> None:
        for name in ("tokenizer.json", "vocab.json", "merges.txt"):
            (copy / name).unlink()
        self.refused(tmp_path, copy, "has no tokenizer")

    def test_broken_tokenizer(self, copy: Path, tmp_path: Path) -> None:
        (copy / "tokenizer.json").write_text("{")
        self.refused(tmp_path, copy, "tokenizer cannot be read")

    def test_no_config(self, copy: Path, tmp_path: Path) -> None:
        (copy / "config.json").unlink()
        self.refused(tmp_path, copy, "has no config.json")

    def test_no_template(self, copy: Path, tmp_path: Path) -> None:
        (copy / "chat_template.jinja").unlink()
        self.refused(tmp_path, copy, "has no chat template")

    def test_template_without_image(self, copy: Path, tmp_path: Path) -> None:
        (copy / "chat_template.jinja").write_text(
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
        )
        self.refused(tmp_path, copy, "no placeholder for an image")

    def test_broken_template(self, copy: Path, tmp_path: Path) -> None:
        (copy / "chat_template.jinja").write_text("{% for %}")
        self.refused(tmp_path, copy, "cannot be rendered")

    def test_no_single_token(self, copy: Path, tmp_path: Path) -> None:
        path = copy / "tokenizer.json"
        data = json.loads(path.read_text())
        data["model"]["merges"] = []
        path.write_text(json.dumps(data))
        self.refused(tmp_path, copy, "no single token for yes")

    def test_thought_before_the_answer(self, copy: Path, tmp_path: Path) -> None:
        path = copy / "chat_template.jinja"
        path.write_text(path.read_text() + "<think>\n")
        self.refused(tmp_path, copy, "--kind reasoner")
        prompt = load_prompt(tier(tmp_path, copy, "--kind", "reasoner") / "prompt.json")
        assert prompt.thinking == ("<think>", "</think>")

    def test_findings_mark_in_the_question(self, model: Path, tmp_path: Path) -> None:
        self.refused(tmp_path, model, "must not contain", question="{findings}?")


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_committed_folders(name: str) -> None:
    """The committed folders are what the command writes today from the committed weights."""
    repository = Path(__file__).parents[3] / "model_repository"
    folder = repository / name
    if not folder.is_dir():
        pytest.skip("not in this checkout")
    before = {p: p.read_text() for p in (folder / "config.pbtxt", folder / "1" / "model.json", folder / "prompt.json")}
    for path in (folder / "1" / "weights").glob("*.safetensors"):
        assert path.stat().st_size < 15 << 20
    assert load_prompt(folder / "prompt.json").kind == KNOWN[name].kind
    assert json.loads(before[folder / "1" / "model.json"])["model"] == KNOWN[name].weights


def with_techniques(tmp_path: Path, weights: Path, name: str, *wanted: str) -> dict[str, Any]:
    """The engine settings of a tier of the catalogue with these techniques."""
    options = [word for each in wanted for word in ("--with", each)]
    arguments = ["tier", name, "--weights", str(weights), "--repository", str(tmp_path / "repository"), *options]
    parsed = parser().parse_args(arguments)
    assert parsed.run(parsed) == 0
    return json.loads((tmp_path / "repository" / name / "1" / "model.json").read_text())


def test_techniques_come_on_top_of_the_settings(model: Path, tmp_path: Path) -> None:
    plain = with_techniques(tmp_path, model, "tiny_vlm_s")
    changed = with_techniques(tmp_path, model, "tiny_vlm_s", "kv_fp8", "visual_tokens=36", "prefix_caching")
    pixels = {"min_pixels": 1024, "max_pixels": 36 * 1024}
    assert changed == {
        **plain,
        "kv_cache_dtype": "fp8",
        "mm_processor_kwargs": pixels,
        "enable_prefix_caching": True,
    }


@pytest.mark.parametrize(
    ("name", "wanted", "problem"),
    [
        ("tiny_vlm_s", "nf4", "nf4: vLLM 0.32 has taken out bitsandbytes; use awq"),
        ("mine", "kv_fp8", "no model 'mine'"),
    ],
)
def test_a_technique_that_cannot_be_had_leaves_no_folder(
    model: Path, tmp_path: Path, name: str, wanted: str, problem: str
) -> None:
    with pytest.raises(ExportError, match=problem):
        with_techniques(tmp_path, model, name, wanted)
    assert not (tmp_path / "repository").exists()
