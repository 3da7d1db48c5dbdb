"""Samples and losses: boxes stay on their objects, presence is honest, the losses find the truth best."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from roadwork_export.nets.yolox import grid  # noqa: E402
from roadwork_export.scenes import render_object  # noqa: E402
from roadwork_export.train.compose import Composer, Picture, Sample, crop, to_canvas, touches  # noqa: E402
from roadwork_export.train.losses import centernet_loss, centernet_targets, scene_loss, yolox_loss  # noqa: E402
from roadwork_export.train.photos import Cutout, Photo, Photos, assign_folds, cut_out  # noqa: E402
from roadwork_export.train.train import collate  # noqa: E402

EVIDENCE = np.ones(16, np.float32)
BOX = np.array([[200.0, 120.0, 240.0, 200.0]], np.float32)


def picture() -> Picture:
    """A grey street with one red rectangle, which is the object."""
    image = np.full((300, 500, 3), 90, np.uint8)
    image[120:200, 200:240] = (255, 0, 0)
    return Picture(image, BOX.copy(), np.array([0]), True)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_objects_through_crop_and_canvas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = to_canvas(crop(picture(), rng, strong=True), rng, EVIDENCE)
    assert sample.canvas.shape == (640, 640, 3)
    for x1, y1, x2, y2 in sample.boxes:
        red = sample.canvas[round(y1) : round(y2), round(x1) : round(x2)].astype(int)
        assert ((red[..., 0] - red[..., 1]) > 60).mean() > 0.8


@pytest.mark.parametrize("seed", range(12))
def test_presence_is_one_only_with_a_box_and_zero_only_without_an_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = to_canvas(crop(picture(), rng, strong=True), rng, EVIDENCE)
    red = ((sample.canvas[..., 0].astype(int) - sample.canvas[..., 1]) > 100).sum()
    assert sample.presence != 1 or len(sample.boxes) == 1
    assert sample.presence != 0 or red < 30


def photos() -> Photos:
    rng = np.random.default_rng(0)
    street = rng.integers(60, 160, (300, 500, 3), dtype=np.uint8)
    frame = Photo("a", "city", "Mi3-Lab/workzone", True, picture().image, BOX.copy(), np.array([0]))
    empty = Photo("b", "town", "other", False, street, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return Photos([frame], [empty], {0: [Cutout(render_object("cone", 60, 1), 0)]})


def test_the_same_generator_draws_the_same_sample() -> None:
    first, second = (Composer(photos()).draw(np.random.default_rng([3, 1, 4])) for _ in range(2))
    assert np.array_equal(first.canvas, second.canvas)
    assert np.array_equal(first.boxes, second.boxes)


def test_many_samples_of_every_kind_are_valid() -> None:
    composer = Composer(photos())
    for n in range(60):
        sample = composer.draw(np.random.default_rng([0, 0, n]))
        assert sample.canvas.dtype == np.uint8
        assert len(sample.boxes) == len(sample.classes)
        assert ((sample.boxes >= 0) & (sample.boxes <= 640)).all()
        assert ((sample.boxes[:, 2:] - sample.boxes[:, :2]) > 0).all()
        assert sample.presence in (-1, 0, 1)


def test_a_window_of_a_frame_touches_no_box() -> None:
    composer = Composer(photos())
    for n in range(10):
        assert len(composer._window(np.random.default_rng(n)).boxes) == 0
    assert touches(BOX, (230, 190, 400, 300))
    assert not touches(BOX, (241, 0, 400, 300))


def test_composer_without_streets_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="streets without roadwork"):
        Composer(Photos(photos().annotated, [], {}))


def test_an_object_cut_by_the_frame_is_not_cut_out() -> None:
    assert cut_out(picture().image, np.array([0, 100, 40, 180])) is None


def test_folds_split_groups_and_nothing_else() -> None:
    rows = [{"source": "s", "group": f"g{i % 7}"} for i in range(70)]
    folds = assign_folds(rows, 3)
    assert set(folds) == {f"g{i}" for i in range(7)}
    assert set(folds.values()) == {0, 1, 2}
    assert folds == assign_folds(rows, 3)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes = torch.tensor([[[40.0, 60.0, 100.0, 180.0], [130.0, 30.0, 150.0, 60.0]]])
    return boxes, torch.tensor([[2, 5]]), torch.ones(1, 2, dtype=torch.bool)


def test_yolox_loss_is_smallest_at_the_truth() -> None:
    boxes, classes, valid = batch()
    points, strides = grid(256, 256, torch.device("cpu"))
    count = len(points)
    truth, cls, obj = torch.zeros(1, count, 4), torch.full((1, count, 16), -9.0), torch.full((1, count), -9.0)
    truth[..., 2:] = 1
    centres = points + strides / 2
    for box, c in zip(boxes[0], classes[0], strict=True):
        near = ((centres - (box[:2] + box[2:]) / 2).abs() < 2.5 * strides).all(1)
        near &= ((centres > box[:2]) & (centres < box[2:])).all(1)
        truth[0, near], cls[0, near, c], obj[0, near] = box, 9.0, 9.0
    good = yolox_loss((cls, truth, obj), boxes, classes, valid)
    shifted = yolox_loss((cls, truth + 25, obj), boxes, classes, valid)
    wrong = yolox_loss((cls.roll(1, 2), truth, obj), boxes, classes, valid)
    assert good < shifted
    assert good < wrong
    assert torch.isfinite(yolox_loss((cls, truth, obj), boxes, classes, torch.zeros_like(valid)))


def test_centernet_targets_peak_at_centres_and_its_loss_is_smallest_there() -> None:
    boxes, classes, valid = batch()
    heat, sides, weight = centernet_targets(boxes, classes, valid, torch.Size([1, 16, 64, 64]))
    assert [float(heat[0, 2, 30, 17]), float(heat[0, 5, 11, 35])] == [1.0, 1.0]
    assert int((heat > 0.999).sum()) == 2
    assert bool((sides.permute(0, 2, 3, 1)[weight > 0.5] > 0).all())
    logits = torch.where(heat > 0.999, 9.0, -9.0)
    good = centernet_loss((logits, sides.clamp(min=1)), boxes, classes, valid)
    assert good < centernet_loss((logits.roll(3, 3), sides.clamp(min=1)), boxes, classes, valid)
    assert good < centernet_loss((logits, sides.clamp(min=1) * 2), boxes, classes, valid)


def test_scene_loss_ignores_what_nobody_can_say() -> None:
    boxes, _, valid = batch()
    evidence = torch.zeros(1, 16, 16)
    right = scene_loss((torch.tensor([5.0]), evidence), boxes, valid.float(), torch.tensor([1]))
    wrong = scene_loss((torch.tensor([-5.0]), evidence), boxes, valid.float(), torch.tensor([1]))
    unknown = scene_loss((torch.tensor([-5.0]), evidence), boxes, valid.float(), torch.tensor([-1]))
    assert right < wrong
    assert unknown <= right


def test_collate_keeps_the_largest_boxes() -> None:
    small = np.tile(np.array([[0, 0, 4, 4]], np.float32), (70, 1))
    large = np.array([[0, 0, 99, 99]], np.float32)
    sample = Sample(np.zeros((8, 8, 3), np.uint8), np.concatenate([small, large]), np.arange(71) % 16, 1)
    _, boxes, _, valid, _ = collate([sample])
    assert float(boxes[0, 0, 2]) == 99
    assert int(valid.sum()) == 64
