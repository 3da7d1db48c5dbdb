"""Cut-outs of single objects."""

from __future__ import annotations

import numpy as np
import pytest
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_export.scenes import OBJECTS, render_object


def test_every_class_of_the_taxonomy_is_drawn() -> None:
    assert set(OBJECTS) == set(load_taxonomy().names)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("height", [8, 40, 160])
def test_sprite_has_its_height_and_fits_its_content(name: str, height: int) -> None:
    for seed in range(4):
        sprite = render_object(name, height, seed)
        assert sprite.dtype == np.uint8
        assert sprite.shape[0] == height
        assert sprite.shape[2] == 4
        alpha = sprite[..., 3]
        assert alpha.max() > 100
        assert alpha.mean() > 5
        for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert edge.any()


@pytest.mark.parametrize("name", OBJECTS)
def test_same_seed_same_sprite(name: str) -> None:
    assert np.array_equal(render_object(name, 50, 9), render_object(name, 50, 9))


@pytest.mark.parametrize("name", OBJECTS)
def test_sprites_vary(name: str) -> None:
    assert len({render_object(name, 50, seed).tobytes() for seed in range(6)}) == 6


def test_cones_are_mostly_orange() -> None:
    warm = 0
    for seed in range(20):
        sprite = render_object("cone", 80, seed).astype(float)
        solid = sprite[sprite[..., 3] > 200]
        warm += np.mean(solid[:, 0] - solid[:, 2] > 60) > 0.25
    assert warm >= 15


def test_unknown_class_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'unicorn' cannot be drawn; choose one of cone"):
        render_object("unicorn", 40, 0)


def test_height_under_three_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        render_object("cone", 2, 0)
