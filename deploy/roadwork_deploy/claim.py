"""A planned profile has its GPUs to itself: it fits them, and no other planned profile is served on them.

The claim is a locked file for each GPU, which the kernel lets go when its holder ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from roadwork_deploy.errors import PlatformError
from roadwork_deploy.gpu import Device
from roadwork_deploy.profile import Profile

GB = 10**9


def check_room(profile: Profile, devices: list[Device]) -> None:
    """Raise PlatformError where a GPU that the profile was planned for is not there or is smaller than its part."""
    for index, claimed in profile.claimed().items():
        again = "; plan for what there is: roadwork-deploy plan --gpus ... --write NAME"
        if index >= len(devices):
            raise PlatformError(
                f"profile {profile.name} places models on GPU {index}, the driver shows {len(devices)}{again}"
            )
        have = devices[index].bytes
        if claimed > have:
            raise PlatformError(
                f"profile {profile.name} was planned for {profile.hardware or 'other GPUs'}: it gives away "
                f"{claimed / GB:.1f} GB of GPU {index}, which has {have / GB:.1f}{again}"
            )


@contextlib.contextmanager
def claimed(profile: Profile, devices: list[Device], folder: Path | None = None) -> Iterator[None]:
    """Hold the GPUs of a planned profile; one without a plan holds none.

    Args:
        devices: of this machine, in the profile's order.
        folder: of the locked files; by default one of this user in the temporary folder.

    Raises:
        PlatformError: another profile is served on one of them.
    """
    wanted = [devices[index].uuid for index in profile.claimed()]
    with contextlib.ExitStack() as held:
        _hold(held, wanted, profile.name, folder or Path(tempfile.gettempdir()) / f"roadwork-gpus-{os.getuid()}")
        yield


def _hold(held: contextlib.ExitStack, uuids: Iterable[str], name: str, folder: Path) -> None:
    for uuid in uuids:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = held.enter_context((folder / f"{uuid}.lock").open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip() or "another profile"
            raise PlatformError(
                f"profile {name} was planned for all of {uuid}, and {other} is served there; stop that one, or plan "
                "both as one: roadwork-deploy plan"
            ) from None
        file.truncate(0)
        file.write(f"profile {name} (process {os.getpid()})\n")
        file.flush()
