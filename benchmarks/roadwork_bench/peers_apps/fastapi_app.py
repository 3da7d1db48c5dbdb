"""A plain FastAPI application behind uvicorn.

As FastAPI's pages have it: models are opened in the lifespan ("Lifespan Events"), an endpoint that computes is a plain
`def` and runs in the thread pool ("Concurrency and async / await"), the pool's size is set as Starlette's page "Thread
Pool" says, and several processes are uvicorn's workers ("Server Workers").

Settings: `workers` processes with `threads` images at a time each; `parallel` 1 asks the networks at the same time.
"""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio.to_thread
import uvicorn
from fastapi import Body, FastAPI, HTTPException

from roadwork_bench.peers_apps.looking import Looker, read_job


def make_app() -> FastAPI:
    """The application of one worker."""
    job = read_job()
    opened: dict[str, Any] = {"executor": None}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = job.settings["threads"]
        opened["looker"] = Looker(job.repository, job.threads)
        if job.settings.get("parallel"):
            opened["executor"] = ThreadPoolExecutor(len(job.threads) * job.settings["threads"])
        yield
        if opened["executor"] is not None:
            opened["executor"].shutdown()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body(media_type="application/octet-stream")]) -> dict[str, Any]:
        try:
            return dict(opened["looker"].look(image, opened["executor"]))
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    return app


def main() -> None:
    job = read_job()
    uvicorn.run(
        "roadwork_bench.peers_apps.fastapi_app:make_app",
        factory=True,
        host="127.0.0.1",
        port=job.port,
        workers=job.settings["workers"],
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
