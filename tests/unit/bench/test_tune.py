"""`roadwork-bench tune` without a server: the search, what is to choose from, and the profile that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.perf.candidates import Tunable, axes_of, present, share_of, tunable
from roadwork_bench.perf.run import Point
from roadwork_bench.perf.search import Candidate, Judged, coordinate_search, doubling
from roadwork_bench.perf.tuned_profile import check_path, tuned_text, write
from roadwork_bench.tune import judged, ladder, open_loop
from roadwork_deploy.errors import DeployError
from roadwork_deploy.profile import Share, load_profile, read_profile
from roadwork_deploy.repository import default_repository, read_config
from roadwork_deploy.wire import profile_config

REPOSITORY = default_repository()
AXES: dict[str, list[Any]] = {"instances": [1, 2, 4], "batch": [1, 2, 4, 8], "delay_ms": [0.0, 1.0, 2.0]}


def surface(candidate: Candidate) -> Judged:
    """Best of all at 2 instances, batches of 4, 1 ms."""
    rate = {1: 10.0, 2: 20.0, 4: 15.0}[candidate.instances]
    rate *= {1: 1.0, 2: 1.5, 4: 2.0, 8: 1.2}[candidate.batch or 1]
    rate *= {None: 1.0, 0.0: 1.0, 1.0: 1.2, 2.0: 0.5}[candidate.delay_ms]
    return Judged(candidate, rate, 10.0)


@pytest.mark.parametrize("start", [Candidate(1, 1), Candidate(4, 8, 0.0), Candidate(2, 2, 2.0)])
def test_the_search_finds_the_best_of_the_grid_without_trying_all(start: Candidate) -> None:
    asked: list[Candidate] = []

    def judge(candidate: Candidate) -> Judged:
        asked.append(candidate)
        return surface(candidate)

    best, finished = coordinate_search(start, AXES, judge, 30)
    assert best.candidate == Candidate(2, 4, 1.0)
    assert finished
    assert len(asked) == len(set(asked)) < 20
    cut, finished = coordinate_search(start, AXES, surface, 2)
    assert not finished
    assert not surface(start).better_than(cut)


def test_where_nothing_holds_the_search_goes_for_the_latency() -> None:
    def slow(candidate: Candidate) -> Judged:
        return Judged(candidate, 0.0, 100.0 / candidate.instances)

    best, finished = coordinate_search(Candidate(1), {"instances": [1, 2, 4]}, slow, 10)
    assert (best.candidate, best.holds, finished) == (Candidate(4), False, True)


def test_noise_is_no_gain() -> None:
    assert not Judged(Candidate(2), 10.1, 5.0).better_than(Judged(Candidate(1), 10.0, 5.0))
    assert Judged(Candidate(2), 0.1, 5.0).better_than(Judged(Candidate(1), 0.0, 1.0))


def point(value: float, throughput: float, p99: float, failed: int = 0) -> dict[str, Any]:
    return {
        "value": value,
        "throughput": throughput,
        "milliseconds": {"p99": p99},
        "failed": failed,
        "fell_behind": False,
    }


def test_the_ladder_ends_when_the_target_is_passed_or_nothing_is_gained() -> None:
    asked: list[float] = []

    def measure(at: Point) -> dict[str, Any]:
        asked.append(at.value)
        return point(at.value, min(10.0, 5.0 * at.value), 100.0 * at.value / min(10.0, 5.0 * at.value))

    points = ladder(measure, 1000.0, 64)
    assert asked == [1, 2, 4]  # 4 brings nothing over 2
    assert judged(Candidate(1), points, 1000.0).throughput == 10.0
    assert len(ladder(measure, 25.0, 64)) == 3
    assert len(ladder(measure, 10.0, 64)) == 1
    assert not judged(Candidate(1), ladder(measure, 10.0, 64), 10.0).holds
    with pytest.raises(BenchError, match="3 requests failed at 1 in flight"):
        ladder(lambda at: point(at.value, 1.0, 1.0, failed=3), 10.0, 4)


def test_poisson_arrivals_are_lowered_until_they_hold() -> None:
    found = open_loop(lambda at: point(at.value, at.value, at.value * 10), 10.0, 75.0)
    assert [one["value"] for one in found] == [9.0, 8.0, 7.0]


# What is to choose from ----------------------------------------------------------------------------------------------
def subject(name: str, profile: str = "cpu") -> Tunable:
    return tunable(name, REPOSITORY, load_profile(profile))


def test_a_detector_has_all_three_settings_and_starts_from_the_profile() -> None:
    found = subject("yolox_nano")
    axes = axes_of(found, 9.0, 4, 8)
    assert axes == {"instances": [1, 2, 4], "batch": [1, 2, 4, 8], "delay_ms": [0.0, 0.5, 1.0, 2.0, 4.0]}
    assert present(found, axes).batch == 1  # profile cpu does not batch
    assert present(subject("yolox_nano", "gpu"), axes).batch == 8
    assert not found.asks_others


def test_the_cascade_has_instances_alone() -> None:
    found = subject("roadwork")
    assert found.asks_others
    assert axes_of(found, 9.0, 6, 8) == {"instances": [1, 2, 4]}
    assert doubling(1) == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("perception", "is an ensemble and has no settings of its own; tune its models one by one: .*yolox_nano"),
        ("roadwork_stream", "answers in parts"),
        ("yolox_nan", "does not serve model 'yolox_nan'; did you mean 'yolox_nano'"),
        ("tiny_vlm_s", "does not serve model 'tiny_vlm_s'"),
    ],
)
def test_what_has_no_settings_is_told(name: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        subject(name)


# What it writes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("base", ["cpu", "cpu-tiers"])
def test_the_profile_is_the_old_one_with_the_new_settings(tmp_path: Path, base: str) -> None:
    path = tmp_path / "tuned.yaml"
    found = subject("yolox_nano", base)
    text = tuned_text(found, base, Candidate(2, 4, 1.5), "tuned", "roadwork-bench tune yolox_nano", "10/s")
    profile = write(path, text)
    old = load_profile(base)
    kept = {"threads": old.detectors.threads, "parameters": old.detectors.parameters}
    assert profile.models["yolox_nano"] == Share(instances=2, batch=4, delay_ms=1.5, **kept)
    assert {name: share for name, share in profile.models.items() if name != "yolox_nano"} == dict(old.models)
    assert (profile.config_name, profile.tiers, profile.entries) == ("tuned", old.tiers, old.entries)
    config = profile_config(found.model, profile, profile.models["yolox_nano"])
    path.with_name("config.pbtxt").write_text(config)
    made = read_config(path.with_name("config.pbtxt"))
    assert made.instance_group[0].count == 2
    assert list(made.dynamic_batching.preferred_batch_size) == [4]
    assert made.dynamic_batching.max_queue_delay_microseconds == 1500


def test_a_tuned_profile_can_be_tuned_again(tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    write(path, tuned_text(subject("yolox_nano"), "cpu", Candidate(2, 4, 1.5), "tuned", "c", "f"))
    check_path(path)  # its own may be written again
    again = tunable("scene", REPOSITORY, read_profile(path))
    profile = write(path, tuned_text(again, str(path), Candidate(2, 1), "tuned", "c", "f"))
    assert profile.models["scene"].batching is False
    assert profile.models["scene"].instances == 2
    assert profile.models["yolox_nano"].batch == 4


def test_a_share_without_batching_waits_for_nobody() -> None:
    share = share_of(Candidate(3, 1), Share(threads=1, batch=8, delay_ms=2.0))
    assert share == Share(instances=3, threads=1, batching=False)
    assert Candidate(1, 4, 2.0).with_("batch", 1) == Candidate(1, 1)
    assert Candidate(1, 1).with_("batch", 2) == Candidate(1, 2, 0.0)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("{delay_ms: -1}", "models.decode.delay_ms: is a number of milliseconds"),
        ("{batch: 0}", "models.decode.batch: is a whole number of at least 1"),
        ("{batching: false, batch: 2}", "models.decode.batch: is for a model that batches"),
    ],
)
def test_settings_of_a_profile_are_checked(tmp_path: Path, share: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"base: cpu\nconfig_name: wrong\nentries: [decode]\nmodels:\n  decode: {share}\n")
    with pytest.raises(DeployError, match=message):
        read_profile(path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for path in (tmp_path / "Tuned.yaml", tmp_path / "tuned.yml", tmp_path / "none" / "tuned.yaml"):
        with pytest.raises(BenchError, match="--write"):
            check_path(path)
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: cpu\n")
    with pytest.raises(BenchError, match="was not written by tune and is left alone"):
        check_path(mine)


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "decode", "--p99-ms", "0"]) == 2
    assert "--p99-ms: 0 is not between" in capsys.readouterr().err
    assert main(["tune", "decode", "--p99-ms", "5", "--candidates", "0"]) == 2
    assert "--candidates: is at least 1" in capsys.readouterr().err
