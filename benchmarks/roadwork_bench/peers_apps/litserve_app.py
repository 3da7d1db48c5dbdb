"""LitServe: a `LitAPI` that opens the models once a worker, and one image at a time in each.

As LitServe's pages "LitAPI" and "Request, response format" have it: the request is typed, here as the raw bytes of the
body. Batching (page "Batching") stays off: these networks are slower in batches on a CPU (docs/overhead.md). `setup`
gets a device; workers are `workers_per_device`.

Settings: `workers`; `parallel` 1 asks the networks at the same time.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import litserve
from fastapi import Body, HTTPException

from roadwork_bench.peers_apps.looking import Looker, read_job


class Api(litserve.LitAPI):
    """One of these lives in every worker."""

    def setup(self, device: str) -> None:
        job = read_job()
        self._looker = Looker(job.repository, job.threads)
        self._executor = ThreadPoolExecutor(len(job.threads)) if job.settings.get("parallel") else None

    # Evaluated when the server starts, so this module has no `from __future__ import annotations`.
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def predict(self, image: bytes) -> dict[str, Any]:
        try:
            return self._looker.look(image, self._executor)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    job = read_job()
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=job.settings["workers"], timeout=60)
    server.run(host="127.0.0.1", port=job.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
