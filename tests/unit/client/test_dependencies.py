"""The client alone pulls nothing but its base dependencies."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# tritonclient[grpc], NumPy and Pillow, and what these import themselves.
ALLOWED = {
    *("roadwork_client", "tritonclient", "numpy", "PIL", "grpc", "google", "packaging", "rapidjson", "urllib3"),
    *("ml_dtypes", "typing_extensions", "defusedxml", "olefile", "cython_runtime"),
}
SCRIPT = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"yaml", "jsonschema", "torch", "cv2", "rich", "onnxruntime", "roadwork_cascade",
                                  "roadwork_deploy", "roadwork_export", "roadwork_bench", "scipy", "sklearn"}:
            raise ModuleNotFoundError(f"the client must not import {name}", name=name)
sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
import MODULE
third = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(third - set(sys.stdlib_module_names))))
"""


@pytest.mark.parametrize("module", ["roadwork_client", "roadwork_client.cli", "roadwork_client.natix"])
def test_imports_only_base_dependencies(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("MODULE", module)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    imported = {name for name in json.loads(run.stdout) if not name.startswith("_cython")}
    assert imported <= ALLOWED, imported - ALLOWED


def test_importing_the_client_is_not_slow_on_purpose() -> None:
    """No model, no server and no miner's package is looked for by an import."""
    script = "import sys, roadwork_client; assert not {'natix', 'base_miner', 'PIL.ImageDraw'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
