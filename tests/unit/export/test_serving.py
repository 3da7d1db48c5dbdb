"""What the catalogue says of models that vLLM serves: its sizes add up, and a wrong one is told with its field."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pytest
from roadwork_export.catalogue import CatalogueError, Entry, load_catalogue, parse_catalogue
from roadwork_export.serving import Serving, TextModel, VisionModel

ENTRY: dict[str, Any] = {
    "name": "one", "level": ["3"], "role": "scorer", "family": None, "source": "a/b", "licence": "MIT",
    "commercial": "yes", "parameters": 4e9, "input": None, "served": "vllm", "status": "needs weights",
    "serving": {
        "architecture": "OneForGeneration", "remote_code": False, "params": 4.0, "context": 4096, "verified": "a test",
        "price": 0.1, "checkpoints": {"bf16": "a/b"}, "online": ["fp8"], "settings": {"max_num_seqs": 4},
        "text": {
            "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 128,
            "vocabulary": 100, "kv_layers": 2,
        },
        "vision": {
            "params": 0.1, "layers": 2, "hidden": 64, "heads": 4, "intermediate": 128, "patch": 16, "merge": 2,
        },
    },
}  # fmt: skip


def read(**changes: Any) -> Serving:
    """The serving of ENTRY with these values; `text__heads=3` is of the inner mapping, `...` takes a field out."""
    entry = copy.deepcopy(ENTRY)
    for key, value in changes.items():
        into = entry["serving"]
        *outer, last = key.split("__")
        for step in outer:
            into = into[step]
        if value is ...:
            into.pop(last)
        else:
            into[last] = value
    found = parse_catalogue({"version": 1, "entries": [entry]}).get("one").serving
    assert found is not None
    return found


def sized() -> list[Entry]:
    return [e for e in load_catalogue() if e.serving is not None and e.serving.text and e.serving.vision]


def served() -> list[Entry]:
    return [entry for entry in load_catalogue() if entry.served == "vllm"]


class TestShipped:
    @pytest.mark.parametrize("entry", sized(), ids=lambda entry: entry.name)
    def test_sizes_add_up_to_the_published_parameters(self, entry: Entry) -> None:
        assert entry.serving is not None
        assert entry.serving.counted() == pytest.approx(entry.serving.params, rel=0.05)

    def test_everything_that_vllm_serves_has_its_sizes(self) -> None:
        assert [entry.name for entry in served() if entry not in sized()] == []
        assert len(served()) > 25

    @pytest.mark.parametrize("entry", served(), ids=lambda entry: entry.name)
    def test_its_source_is_one_of_its_checkpoints(self, entry: Entry) -> None:
        assert entry.serving is not None
        if entry.family == "own":
            assert not entry.serving.checkpoints
            return
        assert entry.source in entry.serving.checkpoints.values()
        assert entry.serving.price
        assert entry.serving.settings["limit_mm_per_prompt"]["image"] == 1

    @pytest.mark.parametrize(
        ("name", "octets"), [("qwen3_vl_4b", 147_456), ("qwen3_vl_32b", 262_144), ("qwen3_vl_30b_a3b", 98_304)]
    )
    def test_cache_of_a_token_is_the_known_one(self, name: str, octets: int) -> None:
        """Keys and values of every layer in two bytes; the figures are those that engines report."""
        serving = load_catalogue().get(name).serving
        assert serving is not None
        assert serving.text is not None
        text = serving.text
        assert 2 * text.kv_layers * text.kv_heads * text.head_dim * 2 == octets

    def test_text_only_models_are_known_and_not_served(self) -> None:
        for name in ("deepseek_v3_2", "deepseek_r1_distill_llama_70b"):
            entry = load_catalogue().get(name)
            assert entry.status == "rejected"
            assert entry.serving is not None
            assert entry.serving.text is None
            with pytest.raises(ValueError, match="sizes of text and vision are not known"):
                entry.serving.counted()

    def test_reading_it_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from roadwork_export.catalogue import load_catalogue; load_catalogue(); "
            "sys.exit(', '.join({'torch', 'vllm', 'transformers', 'numpy'} & set(sys.modules)) or None)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


class TestCounting:
    def test_dense_by_hand(self) -> None:
        attention = 64 * 16 * (4 + 4 + 2 + 2)
        layers = 2 * (attention + 3 * 64 * 128)
        text = read().text
        assert text is not None
        assert text.counted() * 1e9 == pytest.approx(layers + 2 * 100 * 64)
        assert read().counted() == pytest.approx(text.counted() + 0.1)

    def test_tied_words_count_once(self) -> None:
        text = read(text__tied=True).text
        assert text is not None
        assert text.counted() * 1e9 == pytest.approx(2 * (64 * 16 * 12 + 3 * 64 * 128) + 100 * 64)

    def test_experts_in_some_layers(self) -> None:
        text = TextModel(
            layers=4, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocabulary=10, kv_layers=4, experts=3,
            active_experts=1, expert_intermediate=5, expert_layers=1, shared_expert=2,
        )  # fmt: skip
        by_hand = 4 * 8 * 4 * 6 + 3 * 3 * 8 * 16 + 3 * 8 * (3 * 5 + 2) + 8 * 3 + 2 * 80
        assert text.counted() * 1e9 == pytest.approx(by_hand)

    def test_experts_are_in_all_layers_unless_told(self) -> None:
        sizes = {"experts": 3, "active_experts": 1, "expert_intermediate": 5}
        text = read(**{f"text__{key}": value for key, value in sizes.items()}).text
        assert text is not None
        assert text.expert_layers == 2

    def test_layers_without_a_growing_cache(self) -> None:
        text = read(text__kv_layers=1, text__gated=True, text__linear_keys=32, text__linear_values=64).text
        assert text is not None
        by_hand = 64 * 16 * 16 + 64 * (2 * 32 + 3 * 64) + 2 * 3 * 64 * 128 + 2 * 100 * 64
        assert text.counted() * 1e9 == pytest.approx(by_hand)


class TestValidation:
    def test_all_is_read(self) -> None:
        serving = read()
        assert serving.checkpoints == {"bf16": "a/b"}
        assert (serving.online, serving.settings, serving.prompt) == (("fp8",), {"max_num_seqs": 4}, "scorer")
        assert (serving.price, serving.context, serving.other) == (0.1, 4096, 0.0)
        assert serving.vision == VisionModel(0.1, 2, 64, 4, 128, 16, 2)

    def test_sizes_may_be_unknown(self) -> None:
        serving = read(text=None, vision=None, price=None)
        assert (serving.text, serving.vision, serving.price) == (None, None, None)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"architecture": ...}, "serving.architecture is missing"),
            ({"remote_code": ...}, "serving.remote_code is missing"),
            ({"remote_code": "no"}, "serving.remote_code must be true or false, got 'no'"),
            ({"params": 5}, "serving.params must be parameters in 1e9, got 5 for 4000000000.0"),
            ({"context": ...}, "serving.context is missing"),
            ({"context": "4k"}, "serving.context must be a whole number of at least 1, got '4k'"),
            ({"verified": ...}, "serving.verified is missing"),
            ({"contxt": 3}, "serving: no field 'contxt': did you mean context?"),
            ({"checkpoints": {"int3": "a/b"}}, "serving.checkpoints must be of bf16, fp8, awq, gptq"),
            ({"checkpoints": {"fp8": 3}}, "serving.checkpoints.fp8 must be a hub id, got 3"),
            ({"online": ["w8a8"]}, "serving.online must be of fp8, int8, got 'w8a8'"),
            ({"price": -1}, "serving.price must be a number over 0, got -1"),
            ({"settings": 3}, "serving.settings must be a mapping from texts, got 3"),
            ({"text__heads": ...}, "serving.text.heads is missing"),
            ({"text__heads": 4.5}, "serving.text.heads must be a whole number of at least 1, got 4.5"),
            ({"text__kv_heads": 3}, "serving.text.kv_heads must divide heads 4, got 3"),
            ({"text__kv_layers": 3}, "serving.text.kv_layers must be at most layers 2, got 3"),
            ({"text__experts": 8}, "serving.text.expert_intermediate goes with experts, got 0"),
            ({"text__tied": 1}, "serving.text.tied must be true or false, got 1"),
            ({"text__widht": 1}, "serving.text: no field 'widht'"),
            ({"vision__params": "big"}, "serving.vision.params must be a number over 0, got 'big'"),
            ({"vision__patch": 0}, "serving.vision.patch must be a whole number of at least 1, got 0"),
        ],
    )
    def test_names_entry_and_field(self, changes: dict[str, Any], problem: str) -> None:
        with pytest.raises(CatalogueError, match="^" + re.escape(f"catalogue.yaml: one: {problem}")):
            read(**changes)
