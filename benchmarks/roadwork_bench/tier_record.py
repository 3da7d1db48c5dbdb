"""Asking every vision-language tier that a profile serves about every image of a table, through the embedded server.

One tier is served at a time and one image asked at a time, so that the recorded milliseconds are its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roadwork_cascade.breaker import Breakers
from roadwork_cascade.deadline import Deadline
from roadwork_cascade.members import Geometry
from roadwork_cascade.options import Options
from roadwork_cascade.policy import MINIMUM_MASS, Policy
from roadwork_cascade.policy_parts import Budget, Member, Tier, TokenPrices
from roadwork_cascade.prompts import PromptError, Prompts, load_prompt
from roadwork_cascade.request import Request
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_cascade.tier import TierRunner
from roadwork_deploy.profile import Profile
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.shm import MIB
from roadwork_deploy.shm import Budget as SharedMemory

from roadwork_bench.about import about
from roadwork_bench.errors import BenchError
from roadwork_bench.folds import Folds
from roadwork_bench.inprocess import InProcessEngine, image_tensor
from roadwork_bench.output import saying
from roadwork_bench.progress import Progress
from roadwork_bench.served_tier import ServedTier
from roadwork_bench.table import Row, Table

LOAD_SECONDS = 600.0
ANSWER_SECONDS = 120.0
SAVE_SECONDS = 20.0
FAILURES = 5
"""Images in a row without an answer after which the tier is taken for broken."""
Save = Callable[[], None]


def record_tiers(
    folder: Path,
    table: Table,
    repository: Path,
    profile: Profile,
    policy: Policy,
    *,
    folds: Folds | None = None,
    without: Collection[str] = (),
    save: Save = lambda: None,
) -> dict[str, int]:
    """Fill the table's usable rows with what the profile's tiers answer; answers that it has already stay.

    With `folds`, rows that weights may have been trained on are asked of FOLDS/<fold>/<tier>, a folder of weights.
    `policy` gives the least mass of an answer that counts. `save` is called every now and then and at the end.

    Returns:
        By tier, how many rows now have its answer; an answer with too little mass leaves a row without one.

    Raises:
        BenchError: the profile has no tiers, weights of a fold are missing, or a tier does not start or breaks down.
        DeployError: the server does not start.
    """
    names = served_tiers(profile, without)
    tiers = [tier_of(repository, name, policy) for name in names]
    work = [(tier, *part) for tier in tiers for part in _parts(tier.name, table.usable, repository, folds)]
    try:
        for tier, weights, rows in work:
            digest = _digest(repository / tier.name, weights or _weights(repository, tier.name))
            wanted = [row for row in rows if row.models.get(tier.name) != digest]
            if wanted:
                table.refuse_elsewhere(about("")["machine"])
                _record(folder, wanted, repository, profile, tier, policy, weights, digest, save)
            table.kinds[tier.name] = tier.member.kind
    finally:
        save()
    return {name: sum(name in row.scores for row in table.usable) for name in names}


def served_tiers(profile: Profile, without: Collection[str]) -> list[str]:
    """Names of the tiers that are asked. Raises BenchError where there are none."""
    names = [name for name in profile.tiers if name not in without]
    if not names:
        others = "; those that it has are left out" if profile.tiers else "; try cpu-tiers"
        raise BenchError(f"--serve {profile.name}: the profile serves no tiers{others}")
    return names


def tier_of(repository: Path, name: str, policy: Policy) -> Tier:
    """The tier as it is asked here: with all the time it takes, at no price, and without findings."""
    try:
        kind = load_prompt(repository / name / "prompt.json").kind
    except PromptError as error:
        raise BenchError(f"tier {name}: {error}") from None
    known = next((tier for tier in policy.tiers if tier.member.name == name), None)
    if known is not None and known.findings:
        raise BenchError(
            f"tier {name}: the policy puts perception's findings into its prompt, which is not recorded here; score it "
            "with roadwork-export evaluate-tier --findings, and take that in with --tier"
        )
    mass = MINIMUM_MASS if known is None else known.member.minimum_mass
    member = Member(name, kind, 1.0, minimum_mass=mass)
    return Tier(name, ANSWER_SECONDS * 1000, 0.0, TokenPrices(), None, None, None, False, False, member)


def _parts(
    tier: str, rows: Sequence[Row], repository: Path, folds: Folds | None
) -> Iterator[tuple[Path | None, list[Row]]]:
    """Rows that the same weights are asked about, and those weights; None for the repository's own."""
    kept = {row.file: row.fold if folds is not None and row.publishable else None for row in rows}
    for fold in sorted({*kept.values()}, key=lambda fold: fold or ""):
        chosen = [row for row in rows if kept[row.file] == fold]
        if folds is None or fold is None:
            yield None, chosen
            continue
        weights = folds.folder / fold / tier
        if not (weights / "config.json").is_file():
            raise BenchError(
                f"{weights} has no weights of the tier, and the repository's may have been trained on these "
                f"photographs: put them there, or leave the tier out with --without {tier}"
            )
        yield weights, chosen


def _record(
    folder: Path,
    rows: list[Row],
    repository: Path,
    profile: Profile,
    tier: Tier,
    policy: Policy,
    weights: Path | None,
    digest: str,
    save: Save,
) -> None:
    with _repository(repository, tier.name, weights) as served:
        saying(f"starting {tier.name}" + ("" if weights is None else f", weights of fold {weights.parent.name}"))
        server = EmbeddedServer(
            served,
            [],
            config_name=profile.config_name,
            drain=5.0,
            startup_timeout=LOAD_SECONDS,
            budget=SharedMemory(instances=1, instance_bytes=64 * MIB, growth_bytes=64 * MIB),
            tiers=[tier.name],
            environment=profile.environment,
        )
        with server, InProcessEngine(repository) as decoder:
            state = server.wait_for_tiers(LOAD_SECONDS)[tier.name]
            if state.state != "ready":
                raise BenchError(str(state))
            asyncio.run(ask_all(folder, rows, server.grpc_url, decoder, served, tier, policy, digest, save))


async def ask_all(
    folder: Path,
    rows: list[Row],
    url: str,
    decoder: InProcessEngine,
    repository: Path,
    tier: Tier,
    policy: Policy,
    digest: str,
    save: Save,
) -> None:
    breakers = Breakers(window=1, minimum=len(rows) + 1, failure_rate=1.0, open_seconds=1.0)  # never opens
    progress, saved, failed = Progress(len(rows), tier.name), time.monotonic(), 0
    async with ServedTier(url) as engine:
        runner = TierRunner(engine, breakers, Prompts(repository))
        for row in rows:
            result = await runner.ask(
                tier, _request(folder / row.file, decoder, policy), ANSWER_SECONDS, Budget(None, None), None
            )
            said = result.record
            for kept in (row.scores, row.ms, row.tokens, row.models):
                kept.pop(tier.name, None)
            if said.outcome == "answered" and said.raw is not None:
                row.scores[tier.name], failed = round(float(said.raw), 6), 0
            elif said.input_tokens:  # it spoke, but neither yes nor no
                failed = 0
            else:
                failed += 1
                detail = result.missing.detail if result.missing else said.outcome
                saying(f"{row.file}: {detail}")
                if failed >= FAILURES:
                    raise BenchError(f"{tier.name} left {FAILURES} images in a row without an answer: {detail}")
                continue
            row.ms[tier.name] = round(said.seconds * 1000, 2)
            row.tokens[tier.name] = [said.input_tokens, said.output_tokens]
            row.models[tier.name] = digest
            progress.step()
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()


def _request(path: Path, decoder: InProcessEngine, policy: Policy) -> Request:
    """The image on its way through a cascade, decoded, so that the tier gets the picture that it would get there."""
    data = path.read_bytes()
    decoded = decoder.run("decode", {"image": image_tensor(data)})
    request = Request(policy, load_taxonomy(), data, Deadline(2 * ANSWER_SECONDS), Options())
    request.shared.canvas = decoded["canvas"]
    request.shared.geometry = Geometry(*(float(value) for value in decoded["geometry"][0]))
    return request


@contextmanager
def _repository(repository: Path, tier: str, weights: Path | None) -> Iterator[Path]:
    """The repository, or one of the tier alone with other weights."""
    if weights is None:
        yield repository
        return
    with tempfile.TemporaryDirectory(prefix="roadwork-record-") as name:
        copy = Path(name) / tier
        shutil.copytree(repository / tier, copy, ignore=shutil.ignore_patterns("weights", "__pycache__"))
        engine = _engine(repository, tier)
        (copy / "1" / "model.json").write_text(
            json.dumps({**engine, "model": str(weights.resolve())}), encoding="utf-8"
        )
        yield Path(name)


def _engine(repository: Path, tier: str) -> dict[str, Any]:
    path = repository / tier / "1" / "model.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BenchError(f"tier {tier}: {path}: {error}") from None


def _weights(repository: Path, tier: str) -> Path | None:
    """The folder of the tier's weights where they lie in the repository."""
    folder = repository / str(_engine(repository, tier).get("model", ""))
    return folder if (folder / "config.json").is_file() else None


def _digest(tier: Path, weights: Path | None) -> str:
    """First 12 hex digits of the SHA-256 of what makes the tier's answers: prompt, engine settings and weights.

    Weights elsewhere count by the name that the settings have for them.
    """
    digest = hashlib.sha256()
    paths = [tier / "prompt.json", tier / "1" / "model.json"]
    if weights is not None:
        paths += sorted(path for path in weights.rglob("*") if path.is_file())
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
