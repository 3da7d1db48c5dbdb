"""What a tier answers to images: through the embedded server and our vLLM backend, or through transformers."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadwork_cascade.prompts import Prompt

from ..errors import CheckError, first_line
from .running import LateError, run

SCRIPTS = Path(__file__).parent
STEP = 16
"""Images of one question to the server, so that slow answers are not mistaken for none."""
SAID = "roadwork: "
ERROR = re.compile(r"\b(?P<kind>\w+(?:Error|Exception)): (?P<text>\S.*)")
Answers = list[float | None]
Tell = Callable[[str], None]


class RefusedError(CheckError):
    """The engine of this machine does not serve the weights; the message is its reason."""


def engine_missing() -> str | None:
    """Why no tier can be served here; None where one can."""
    if importlib.util.find_spec("vllm") is not None:
        return None
    return "vLLM is not installed: python -m roadwork_deploy.install_vllm, or compare with --compare-by transformers"


def served(
    name: str, folder: Path, engine: Mapping[str, Any], question: Prompt, pictures: Sequence[Path], *, seconds: float,
    tell: Tell,
) -> Answers:  # fmt: skip
    """Probability of yes among yes and no for each picture, from tritonserver with our vLLM backend.

    Args:
        folder: with the config.pbtxt of the tier.
        engine: model.json, with `model` as an absolute path.
        question: a prompt that is answered in one token.
        seconds: that the server may take to start.

    Raises:
        RefusedError: the engine does not start on these weights, or answers nothing.
    """
    from roadwork_bench.errors import BenchError
    from roadwork_bench.tiers.agreement import yes_share
    from roadwork_bench.tiers.folder import Subject, Variant
    from roadwork_bench.tiers.sides import ServedSide
    from roadwork_deploy.errors import DeployError

    yes, no = list(question.yes.values()), list(question.no.values())
    found: Answers = []
    with tempfile.TemporaryDirectory(prefix="roadwork-quantize-") as scratch:
        logs = Path(scratch)
        try:
            side = ServedSide(Subject(name, folder, question, engine), Variant("check"), 1, seconds, logs)
            try:
                tell(f"  the engine started in {side.started['seconds']} s")
                for start in range(0, len(pictures), STEP):
                    block = logs / "pictures"
                    block.write_bytes(pickle.dumps([path.read_bytes() for path in pictures[start : start + STEP]]))
                    found += [yes_share(answer, yes, no) for answer in side.answers(block)["answers"]]
                    tell(f"  {len(found)} of {len(pictures)} images")
            finally:
                side.close()
        except (DeployError, BenchError, OSError) as error:
            # It may load, and lack what computes with the weights; then only its log says what.
            why = cause(logs / "server-check.log") or "no error in its log"
            said = first_line(error).partition(" (log: ")[0]  # the log is gone by the time that this is read
            raise RefusedError(said if why in said else f"{said} ({why})") from None
    return found


def absolute(engine: Mapping[str, Any], repository: Path) -> dict[str, Any]:
    """Settings whose paths do not count from the repository any more: the tier is served from another one."""
    from roadwork_bench.tiers.folder import PATHS

    named = {key: repository / str(engine[key]) for key in PATHS if engine.get(key)}
    return {**engine, **{key: str(path.resolve()) for key, path in named.items() if path.exists()}}


def cause(log: Path) -> str | None:
    """The last error that the engine's log names, but that it has died; None where it names none."""
    if not log.is_file():
        return None
    found = [match for line in log.read_text(errors="replace").splitlines() if (match := ERROR.search(line))]
    named = [match for match in found if match["kind"] != "EngineDeadError"]
    return f"{named[-1]['kind']}: {named[-1]['text'][:200]}" if named else None


def by_transformers(
    python: Path, weights: Path, question: Prompt, pictures: Sequence[Path], processor: Mapping[str, Any], *,
    single: bool, seconds: float, tell: Tell,
) -> Answers:  # fmt: skip
    """Probability of yes among yes and no for each picture, from transformers in llmcompressor's environment.

    Args:
        weights: folder of the model, compressed or not.
        processor: settings of the image processor.
        single: compute in float32, else in the precision of the weights.

    Raises:
        CheckError: it failed, or took longer than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="roadwork-quantize-") as scratch:
        out = Path(scratch) / "answers.json"
        job = {
            "model": str(weights),
            "prompt": question.text(None),
            "pictures": [str(path) for path in pictures],
            "processor": dict(processor),
            "yes": sorted(set(question.yes.values())),
            "no": sorted(set(question.no.values())),
            "out": str(out),
            "single": single,
        }
        script(python, "judge_script.py", job, Path(scratch), seconds, tell)
        return list(json.loads(out.read_text(encoding="utf-8"))["answers"])


def script(python: Path, name: str, job: Mapping[str, Any], scratch: Path, seconds: float, tell: Tell) -> None:
    """Run one of this folder's scripts in llmcompressor's environment; its lines for the user are told.

    Raises:
        CheckError: it failed, or took longer than `seconds`.
    """
    path = scratch / "job.json"
    path.write_text(json.dumps(dict(job)), encoding="utf-8")

    def hear(line: str) -> None:
        if line.startswith(SAID):
            tell(f"  {line.removeprefix(SAID)}")

    # What it works on is on this machine: nothing has to be asked of the hub.
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        ended = run([str(python), str(SCRIPTS / name), str(path)], seconds, hear, environment)
    except LateError:
        raise CheckError(f"{name.removesuffix('_script.py')}: not done after {seconds:g} s; raise --timeout") from None
    if ended.status:
        doing = name.removesuffix("_script.py")
        last = ended.lines[-1] if ended.lines else "no message"
        killed = "; killed by a signal, most likely for want of memory" if ended.status < 0 else ""
        raise CheckError(f"{doing}: llmcompressor's environment ended with status {ended.status}: {last}{killed}")
