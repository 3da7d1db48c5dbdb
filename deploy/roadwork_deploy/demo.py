"""`make demo`: start the server, classify images, print verdicts, draw what was seen, stop."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import time
from pathlib import Path

from roadwork_client.cli import main as roadwork

from roadwork_deploy.errors import DeployError
from roadwork_deploy.profile import load_profile
from roadwork_deploy.repository import default_repository
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.table import show_server

SCENES = {
    "works-drums.jpg": (77_000_013, True),
    "works-night.jpg": (77_000_009, True),
    "works-barricades.jpg": (77_000_001, True),
    "works-signs.jpg": (77_000_002, True),
    "street-orange-sign.jpg": (77_000_015, False),
    "street-autumn.jpg": (77_000_018, False),
    "street-busy.jpg": (77_000_021, False),
    "street-carwash.jpg": (77_000_019, False),
}
"""Seeds from 77,000,000 on are kept for the demonstration: training draws its scenes from other generators."""
SHIPPED = {
    "ultralytics": ["assets/bus.jpg"],
    "sklearn": ["datasets/images/china.jpg"],
}
"""Real photographs that installed packages carry."""

TIERS = ("tiny_vlm_s", "tiny_vlm_m")
TIER_SECONDS = 300.0
"""Two engines that start on two slow cores take about a minute."""


def write_scenes(folder: Path) -> list[Path]:
    """Render the demonstration's scenes as JPEG files of 1280 x 720 pixels."""
    import cv2
    from roadwork_export.scenes import render_scene

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (seed, works) in SCENES.items():
        scene = render_scene(seed, roadwork=works, width=1280, height=720)
        path = folder / name
        if not cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise DeployError(f"{path} cannot be written; give another folder with --out")
        paths.append(path)
    return paths


def shipped_photographs() -> list[Path]:
    """Photographs of installed packages that are there."""
    found = []
    for package, names in SHIPPED.items():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            found += [path for name in names if (path := Path(spec.origin).parent / name).is_file()]
    return found


def run(images: list[str], out: Path, tiers: bool = True) -> int:
    """The exit status of `roadwork predict`, or 2 where the server does not start."""
    profile, steps = ("cpu-tiers", 6) if tiers else ("cpu", 4)
    print(f"1/{steps} rendering street scenes that no model was trained on", flush=True)
    chosen = [*map(str, write_scenes(out / "scenes")), *map(str, shipped_photographs()), *images]
    print(f"2/{steps} starting the embedded server, profile {profile}", flush=True)
    began = time.monotonic()
    # The reasoner takes a third engine's start, and two tiers show a climb.
    chosen_profile = dataclasses.replace(load_profile(profile), tiers=TIERS if tiers else ())
    served = prepare(default_repository(), chosen_profile)
    served.server.on_tier = lambda tier: print(f"    {tier}", flush=True)
    with served.server as server:
        show_server(served, time.monotonic() - began)
        url = ["--url", server.grpc_url]
        print(f"3/{steps} classifying {len(chosen)} images over gRPC by perception alone", flush=True)
        shown = [*url, "--overlay", str(out / "overlays"), "--table"]
        status = roadwork(["predict", *chosen, *shown, *(["--tiers", "none"] if tiers else [])])
        if tiers:
            status = max(status, _with_tiers(server, chosen, shown, steps))
        print(f"{steps}/{steps} stopping the server", flush=True)
    print(f"overlays are in {out / 'overlays'}", flush=True)
    return status


def _with_tiers(server: EmbeddedServer, images: list[str], shown: list[str], steps: int) -> int:
    """Wait for the tiers and ask again: those that perception was not sure of climb."""
    print(f"4/{steps} waiting for the vision-language tiers; their engines start on the same cores", flush=True)
    joined = [tier.name for tier in server.wait_for_tiers(TIER_SECONDS).values() if tier.state == "ready"]
    if not joined:
        print("    none has joined; the verdicts above are what this machine gives", flush=True)
        return 1
    names = ", ".join(joined)
    print(f"5/{steps} classifying again: what perception decides stays, the rest climbs to {names}", flush=True)
    return max(roadwork(["predict", *images, *shown]), roadwork(["stream", images[-1], "--url", server.grpc_url]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", help="more images, folders or globs")
    parser.add_argument("--no-tiers", action="store_true", help="perception alone: starts sooner and needs no vLLM")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for scenes and overlays")
    options = parser.parse_args()
    try:
        return run(options.images, options.out, tiers=not options.no_tiers)
    except DeployError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
