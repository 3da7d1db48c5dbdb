"""The argument parsers of SGLang and LMDeploy themselves, without their engines: do they take what `launch` prints?

`python tests/unit/deploy/engine_parsers.py FOLDER` puts the two packages, and the few others that their parsers import,
into a folder (about 1 GB, nothing is installed into this environment). `ROADWORK_ENGINE_PARSERS=FOLDER` lets the tests
of `test_launch.py` use it; without it these are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "ROADWORK_ENGINE_PARSERS"
VERSIONS = {"sglang": "0.5.23", "lmdeploy": "0.18.0"}
BESIDE = {
    "sglang": ("orjson", "triton", "ipython", "traitlets"),
    "lmdeploy": ("mmengine-lite", "yapf", "platformdirs", "addict", "termcolor", "shortuuid"),
}
PARSE = {
    "sglang": """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser(exit_on_error=True)
ServerArgs.add_cli_args(parser)
found = parser.parse_args(json.loads(sys.argv[1])[3:])
""",
    "lmdeploy": """
import json, sys
from lmdeploy.cli.serve import SubCliServe
SubCliServe.add_parser_api_server()
from lmdeploy.cli.cli import CLI
found = CLI.parser.parse_args(json.loads(sys.argv[1])[1:])
""",
}
SHOW = """
print(json.dumps({k: v for k, v in vars(found).items() if isinstance(v, (str, int, float, bool, dict, type(None)))}))
"""
SECONDS = 120.0


def folder() -> Path | None:
    """Where the packages are, by the environment."""
    path = os.environ.get(VARIABLE)
    return Path(path) if path else None


def parse(engine: str, arguments: Sequence[str], packages: Path) -> dict[str, object]:
    """What the engine's own parser makes of a command. Raises ValueError with its words where it refuses."""
    code = PARSE[engine] + SHOW
    environment = {**os.environ, "PYTHONPATH": str(packages / engine)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(arguments))],
        capture_output=True, text=True, check=False, timeout=SECONDS, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def download(packages: Path) -> None:
    """Fill the folder. Raises subprocess.CalledProcessError."""
    for engine, version in VERSIONS.items():
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--upgrade"]
        wanted = [f"{engine}=={version}", *BESIDE[engine]]
        subprocess.run([*command, "--target", str(packages / engine), *wanted], check=True, timeout=3600)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("engine_parsers: give the folder for the packages")
    download(Path(sys.argv[1]))
    print(f"{VARIABLE}={Path(sys.argv[1]).resolve()} python -m pytest tests/unit/deploy/test_launch.py")
