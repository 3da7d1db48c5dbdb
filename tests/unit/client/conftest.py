from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from triton_double import TritonDouble


@pytest.fixture
def triton() -> Iterator[TritonDouble]:
    with TritonDouble() as double:
        yield double


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """Noise and a gradient: what a photograph does to an encoder."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(0, 200, 320, dtype=np.float32)[None, :, None]
    return Image.fromarray((ramp + rng.uniform(0, 50, (240, 320, 3))).astype(np.uint8))


@pytest.fixture(scope="session")
def jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Private key and self-signed certificate (PEM) of localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate, and is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", folder / "key.pem", "-out", folder / "chain.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return (folder / "key.pem").read_bytes(), (folder / "chain.pem").read_bytes()
