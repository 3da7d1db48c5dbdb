"""The small vision-language models: tokenizer, architecture, views, one training run, figures."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from roadwork_cascade.findings import findings_text
from roadwork_export.tiers import tokenizer as tokens
from roadwork_export.tiers.evaluate import folds_of
from roadwork_export.tiers.figures import auroc, best_threshold, mcc, mcnemar, out_of_group
from roadwork_export.tiers.judge import judge, prepare, reason
from roadwork_export.tiers.network import TinyVLM, block_order
from roadwork_export.tiers.pixels import grid_for, patches, processed, served
from roadwork_export.tiers.pool import SIDE, drawn, read_shard, record, shards, write_shard
from roadwork_export.tiers.prompts import BEFORE, SCORER_QUESTION, answer, asked, noisy_findings
from roadwork_export.tiers.ring import Ring
from roadwork_export.tiers.sizes import SIZES, VIEWS, VOCABULARY, model_config
from roadwork_export.tiers.train import TierRecipe, train
from roadwork_export.tiers.training_text import IGNORED, questions
from roadwork_export.tiers.views import patch_labels, view
from roadwork_export.tiers.weights import fresh, read_model, write_model
from tokenizers import Tokenizer

TEXT = 'Detectors report: 3 cone, 1 work vehicle; words read: "ROAD WORK"; probability 0.63. Ünïcödé ☂ 道路'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokens.build()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of four rendered shards of two pictures; two of them pass for photographs of folds 0 and 1."""
    folder = tmp_path_factory.mktemp("pool")
    for n, tag in enumerate(("rendered", "rendered", "fold0", "fold1", "fold1")):
        records = []
        for i in range(2):
            rng = np.random.default_rng([n, i])
            records.append(record(drawn(rng), rng))
        write_shard(folder, f"{tag}_{n:05d}_0", records)
    return folder


def batch_of(folder: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    arrays = [read_shard(p) for p in shards(folder, None)]
    return {k: torch.from_numpy(np.concatenate([a[k] for a in arrays])).to(device) for k in arrays[0]}


class TestTokenizer:
    def test_round_trip(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT

    def test_same_every_time(self, tokenizer: Tokenizer) -> None:
        tokens.build.cache_clear()
        assert tokens.build().to_str() == tokenizer.to_str()

    @pytest.mark.parametrize("word", ["yes", "Yes", " yes", " Yes", "no", "No", " no", " No", " true", " false"])
    def test_answers_are_one_token(self, tokenizer: Tokenizer, word: str) -> None:
        assert len(tokenizer.encode(word).ids) == 1

    def test_marks_are_one_token(self, tokenizer: Tokenizer) -> None:
        for mark, token in tokens.special_ids(tokenizer).items():
            assert tokenizer.encode(mark).ids == [token]

    def test_prompt_is_short(self, tokenizer: Tokenizer) -> None:
        assert len(tokenizer.encode(asked(SCORER_QUESTION, None)).ids) <= 24
        assert tokenizer.get_vocab_size() <= VOCABULARY


class TestPrompts:
    def test_findings_are_the_cascades_own(self) -> None:
        text, words = noisy_findings({"cone": 3}, True, np.random.default_rng(0))
        empty = findings_text([], [], 0.5)
        assert text.count(";") == empty.count(";")
        assert isinstance(words, list)

    def test_answer_is_json(self) -> None:
        said = json.loads(answer({"cone": 3, "work_vehicle": 1}, ["ROAD WORK"], np.bool_(True)))
        assert said == {"thoughts": "3 cone, 1 work vehicle, words road work", "roadwork": True}
        assert json.loads(answer({}, [], False))["roadwork"] is False

    def test_labels_follow_the_question(self, tokenizer: Tokenizer) -> None:
        presence, counts = np.array([1, 0, -1, 1]), np.zeros((4, 16), int)
        plain, mixed = questions(tokenizer, presence, counts, 1, np.random.default_rng(0))
        told = [[tokenizer.id_to_token(int(t)) for t in row[row != IGNORED]] for row in plain.labels]
        assert told == [["yes"], ["no"], [], ["yes"]]
        ids = mixed.labels[3][mixed.labels[3] != IGNORED].tolist()
        assert json.loads(tokenizer.decode(ids)) == {"thoughts": "no work-zone object seen", "roadwork": True}
        # The token at a label's place is the one before it.
        at = int((mixed.labels[3] != IGNORED).nonzero()[0])
        assert mixed.tokens[3][at + 1] == mixed.labels[3][at]


class TestNetwork:
    @pytest.mark.parametrize("key", ["s", "m"])
    def test_same_as_transformers(self, tokenizer: Tokenizer, key: str) -> None:
        transformers = pytest.importorskip("transformers")
        config = model_config(SIZES[key], VOCABULARY, tokens.special_ids(tokenizer))
        torch.manual_seed(0)
        network = TinyVLM(config).eval()
        for p in network.parameters():
            p.data.add_(torch.randn_like(p) * 0.05)
        theirs = transformers.Qwen3VLForConditionalGeneration(transformers.Qwen3VLConfig(**config)).float().eval()
        missing, unexpected = theirs.load_state_dict(network.state_dict(), strict=False)
        theirs.tie_weights()
        assert set(missing) <= {"lm_head.weight"}
        assert not unexpected
        rows, columns = grid = (6, 10)
        x = patches(torch.rand(2, 3, rows * 16, columns * 16) * 255)
        before = torch.tensor(tokenizer.encode(BEFORE).ids)
        after = torch.tensor([tokenizer.encode(asked(SCORER_QUESTION, None)).ids] * 2)
        image = tokens.special_ids(tokenizer)["<|image_pad|>"]
        ids = torch.cat([before.expand(2, -1), torch.full((2, rows * columns // 4), image), after], 1)
        twice = x.view(2, -1, 3, 1, 16, 16).expand(-1, -1, -1, 2, -1, -1).reshape(-1, 1536)
        with torch.no_grad():
            ours = network(x, grid, before, after)[0]
            other = theirs(
                input_ids=ids, pixel_values=twice, image_grid_thw=torch.tensor([[1, *grid]] * 2),
                mm_token_type_ids=(ids == image).int(),
            ).logits[:, -after.shape[1] :]  # fmt: skip
        assert torch.allclose(ours, other, atol=1e-4)

    def test_sizes(self, tokenizer: Tokenizer) -> None:
        counts = {k: sum(p.numel() for p in fresh(SIZES[k], tokenizer).parameters()) / 1e6 for k in SIZES}
        assert 1.5 < counts["s"] < 2.2
        assert 5 < counts["m"] < 6.1
        assert abs(sum(VIEWS) - 1) < 1e-9
        assert all(len(size.grids) == len(VIEWS) for size in SIZES.values())

    def test_written_and_read(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        network = fresh(SIZES["s"], tokenizer)
        write_model(tmp_path, SIZES["s"], tokenizer, network)
        again = read_model(tmp_path)
        for a, b in zip(network.parameters(), again.parameters(), strict=True):
            assert torch.equal(a.bfloat16(), b.bfloat16())
        with pytest.raises(FileNotFoundError, match="train-tier"):
            read_model(tmp_path / "nothing")


class TestPixels:
    def test_block_order(self) -> None:
        assert block_order(2, 4, 2).tolist()[:4] == [[0, 0], [0, 1], [1, 0], [1, 1]]

    def test_grid_as_qwen_does(self) -> None:
        smart_resize = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
        low, high = SIZES["s"].pixels
        for height, width in ((162, 288), (216, 288), (288, 216), (288, 288), (30, 288), (600, 800), (20, 20)):
            wanted = smart_resize(height, width, factor=32, min_pixels=low, max_pixels=high)
            assert grid_for(height, width, (low, high)) == (wanted[0] // 16, wanted[1] // 16)

    def test_patches_hold_their_square(self) -> None:
        image = torch.arange(64 * 64 * 3, dtype=torch.float32).view(1, 3, 64, 64) % 255
        second = patches(image)[0, 1].view(3, 16, 16)  # top right patch of the first token
        assert torch.allclose(second, image[0, :, :16, 16:32] / 127.5 - 1)

    def test_served_size(self) -> None:
        image = np.zeros((337, 600, 3), np.uint8)
        small = served(image, 288)
        assert small.shape == (162, 288, 3)
        assert processed(small, SIZES["s"].pixels)[1] == (10, 18)

    def test_too_narrow(self) -> None:
        with pytest.raises(ValueError, match="too narrow"):
            grid_for(2, 900, (1, 10**6))


class TestViews:
    def test_labels_are_where_boxes_are(self) -> None:
        torch.manual_seed(0)
        boxes, classes = torch.zeros(1, 32, 4), torch.full((1, 32), -1, dtype=torch.int16)
        boxes[0, 0], classes[0, 0] = torch.tensor([100.0, 100.0, 200.0, 200.0]), 0
        batch = {
            "image": torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8), "size": torch.tensor([[SIDE, 240]]),
            "boxes": boxes, "classes": classes, "known": torch.tensor([True]),
        }  # fmt: skip
        seen = view(batch, 7, 12)
        assert seen.images.shape == (1, 3, 224, 384)
        if seen.presence[0] == 1:
            labels = patch_labels(seen, 7, 12)
            assert labels[..., 0].sum() > 0
            assert labels[..., 1:].sum() == 0
            assert seen.counts[0, 0] == 1

    def test_a_street_is_no_roadwork(self) -> None:
        batch = {
            "image": torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8), "size": torch.full((2, 2), SIDE),
            "boxes": torch.zeros(2, 32, 4), "classes": torch.full((2, 32), -1, dtype=torch.int16),
            "known": torch.tensor([True, False]),
        }  # fmt: skip
        assert view(batch, 10, 10).presence.tolist() == [0, -1]

    def test_pool_views(self, pool: Path) -> None:
        seen = view(batch_of(pool), 9, 12)
        assert seen.images.min() >= 0
        assert seen.images.max() <= 255
        assert set(seen.presence.tolist()) <= {-1, 0, 1}

    def test_a_fold_is_left_aside(self, pool: Path) -> None:
        names = [p.name for p in shards(pool, 1)]
        assert names
        assert not [n for n in names if n.startswith("fold1")]


def write_data(folder: Path) -> Path:
    """images.csv and boxes.csv with one rendered photograph a group."""
    import cv2

    header = "file,label,group,source,licence,weights_may_be_published,width,height,annotated_classes,note\n"
    lines = [header]
    for i in range(4):
        rng = np.random.default_rng(i)
        cv2.imwrite(str(folder / f"{i}.jpg"), drawn(rng).image)
        lines.append(f"{i}.jpg,{'roadwork' if i % 2 else 'no_roadwork'},g{i},A/b,x,yes,1,1,,\n")
    (folder / "images.csv").write_text("".join(lines))
    (folder / "boxes.csv").write_text("file,class,x1,y1,x2,y2\n")
    return folder


def test_a_pool_that_cannot_be_read_ends_the_wait(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr("roadwork_export.tiers.ring.SHARD", 2)
    monkeypatch.setattr("roadwork_export.tiers.ring.READ_SECONDS", 0.05)
    monkeypatch.setattr("roadwork_export.tiers.ring.read_shard", lambda path: never.wait(5) or read_shard(path))
    with pytest.raises(ValueError, match=r"no shard could be read within 0\.05 s"):
        Ring(pool, None, 8, 0.5, torch.device("cpu"), 0)


def test_two_steps_of_training(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_export.tiers.ring.SHARD", 2)
    (tmp_path / "data").mkdir()
    data = write_data(tmp_path / "data")
    recipe = TierRecipe(
        str(data), str(pool), fold=0, folds=2, steps=2, minutes=5, batch=4, capacity=8, reasoning=0.5, device="cpu"
    )
    train(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["steps_done"] == 2
    assert record["held_out"]
    for key in ("s", "m"):
        network = read_model(tmp_path / "run" / SIZES[key].name)
        tokenizer = tokens.load(tmp_path / "run" / SIZES[key].name)
        batches = prepare([np.zeros((90, 160, 3), np.uint8), np.zeros((90, 90, 3), np.uint8)], SIZES[key])
        raw, mass = judge(network, tokenizer, batches, ["none", "a longer text of findings"])
        assert raw.shape == (2,)
        assert ((raw > 0) & (raw < 1) & (mass > 0) & (mass < 1)).all()
    answers, _, _ = reason(network, tokenizer, batches[:1])
    assert np.isnan(answers[batches[0].index]).all() or ((answers >= 0) | np.isnan(answers)).all()
    assert len(folds_of([{"group": "unknown"}, {"group": "g1"}], data, 2)) == 2


class TestFigures:
    def test_auroc_counts_ties_half(self) -> None:
        assert auroc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
        assert auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75

    def test_mcc_and_threshold(self) -> None:
        labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
        assert mcc(labels, scores >= best_threshold(labels, scores)) == 1
        assert mcc(labels, np.ones(4)) == 0

    def test_groups_stay_together(self) -> None:
        labels = np.array([0, 1] * 10)
        decided = out_of_group(labels, labels * 0.8 + 0.1, np.repeat(np.arange(10), 2))
        assert (decided == labels).all()

    def test_mcnemar(self) -> None:
        labels = np.ones(10, int)
        found = mcnemar(labels, np.zeros(10, bool), np.ones(10, bool))
        assert found["only_second_right"] == 10
        assert found["p"] == pytest.approx(2 / 1024)
