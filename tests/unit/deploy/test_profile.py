"""Profiles: every mistake is named by file and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from roadwork_deploy.errors import ProfileError
from roadwork_deploy.profile import FOLDER, known_profiles, load_profile, read_profile


def test_every_profile_loads() -> None:
    for name in known_profiles():
        profile = load_profile(name)
        assert profile.description
        assert set(profile.entries) <= set(profile.models)


def test_an_unknown_profile_lists_what_is_known() -> None:
    with pytest.raises(ProfileError, match=r"profile 'cpuu' is unknown; did you mean 'cpu'\? \(known: .*cpu"):
        load_profile("cpuu")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("device",), "tpu", "device: can be cpu or gpu, got 'tpu'"),
        (("config_name",), "a b", "config_name: is a file name"),
        (("entries",), ["nobody"], r"entries\[0\]: 'nobody' is not in models"),
        (("entries",), [], "entries: is a list of models"),
        (("models",), {}, "models: names no model"),
        (("models", "roadwork", "instances"), 0, "models.roadwork.instances: is a whole number of at least 1, got 0"),
        (("models", "roadwork", "instances"), True, "models.roadwork.instances: is a whole number"),
        (("models", "roadwork", "thread"), 1, r"models.roadwork.thread: is unknown; did you mean 'threads'\?"),
        (("detectors", "threads"), "2", "detectors.threads: is a whole number"),
        (("shared_memory", "instance_mib"), None, "shared_memory.instance_mib"),
        (("zzz",), 1, "zzz: is unknown; known are"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    data = yaml.safe_load((FOLDER / "cpu.yaml").read_text())
    target = data
    for key in keys[:-1]:
        target = target[key]
    if value is None:
        del target[keys[-1]]
    else:
        target[keys[-1]] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ProfileError, match=rf"^mine\.yaml(, line \d+)?: {message}"):
        read_profile(path)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ProfileError, match="profile: is a mapping"):
        read_profile(path)
    path.write_text("a: [")
    with pytest.raises(ProfileError, match=r"mine\.yaml is not YAML"):
        read_profile(path)


def test_a_profile_can_build_on_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: cpu\ntiers: [small, large]\nenvironment: {A: '1'}\n")
    mine, base = read_profile(path), load_profile("cpu")
    assert (mine.tiers, mine.environment) == (("small", "large"), {"A": "1"})
    assert (mine.models, mine.entries, mine.config_name) == (base.models, base.entries, base.config_name)
    assert base.tiers == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nobody", "base: is one of .*cpu.*, got 'nobody'"),
        ("base: cpu\ntiers: small", "tiers: is a list of folders, got 'small'"),
        ("base: cpu\ntiers: [small, small]", r"tiers\[1\]: 'small' is named twice"),
        ("base: cpu\ntiers: [roadwork]", r"tiers\[0\]: 'roadwork' is named twice"),
        ("base: cpu\nenvironment: {A: 1}", r"environment.A: is text \(put it in quotes\), got 1"),
    ],
)
def test_a_mistake_about_tiers_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=rf"^mine\.yaml(, line \d+)?: {message}"):
        read_profile(path)
