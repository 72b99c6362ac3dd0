"""The model behind the routes: admits photos while there is room, and words their answers."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from export.ensemble import Ensemble
from export.serving.batcher import Batcher
from export.serving.job import Photo, Unreadable
from export.serving.limits import Limits
from export.serving.metrics import Metrics
from export.serving.uploads import BUSY, Uploads
from export.session import Classifier


class Service:
    "A model under a name, with its threads, limits and counters."

    def __init__(self, model: Classifier | Ensemble, name: str, limits: Limits, runners: int):
        self.model, self.name, self.limits, self.metrics = model, name, limits, Metrics()
        self.batcher = Batcher(model, runners, limits.max_pixels, self.metrics)
        self.uploads = Uploads(limits.max_bytes, limits.max_photos)
        self.ready, self.held = False, 0
        self.metrics.model.info({"name": name, "device": model.device, "sha256": model.checksum, "bs": str(model.bs)})
        self.metrics.watch("photos_held", "Photos that wait or are being answered", lambda: self.held)
        self.metrics.watch("bytes_held", "Bytes of requests' bodies in memory", lambda: self.uploads.held)

    def check_open(self) -> None:
        "Raises HTTPException 503 for a request that comes when the service is stopping or has no room for a photo."
        if not self.ready:
            raise HTTPException(503, "the service is stopping", BUSY)
        self.check_room(1)

    def check_room(self, photos: int) -> None:
        "Raises HTTPException 503 if there is no room for so many more photos."
        if self.held + photos > self.limits.queue:
            raise HTTPException(503, f"{self.held} photos are waiting: try again", BUSY)

    async def answers(self, request: Request, photos: Sequence[Photo]) -> list[Any]:
        """The outcome of each photo, as `Batcher.answers` gives it, of a request that has come: if the service is
        stopping, it still waits for them.

        Raises HTTPException 503 if there is no room, ClientDisconnect if the client leaves meanwhile.
        """
        self.check_room(len(photos))
        self.held += len(photos)
        work = asyncio.ensure_future(self.batcher.answers(photos))
        watch = asyncio.ensure_future(_leaving(request, work))
        try:
            outcomes = await work
        except asyncio.CancelledError:
            if watch.done() and not watch.cancelled():
                raise ClientDisconnect from None
            raise
        finally:
            self.held -= len(photos)
            watch.cancel()
        for outcome in outcomes:
            self.metrics.photos.labels("unreadable" if isinstance(outcome, Unreadable) else "answered").inc()
        return outcomes


async def _leaving(request: Request, work: asyncio.Future) -> None:
    "Cancel `work` once the client has left."
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.cancel()


def prediction(model: Classifier | Ensemble, name: str | None, outcome: Any, top: int | None) -> dict[str, Any]:
    "A photo's entry in the answer: its label, or its error. top: the number of classes told; None for all."
    named = {} if name is None else {"name": name}
    if isinstance(outcome, Unreadable):
        return named | {"error": str(outcome)}
    label, probabilities = outcome[:2]
    order = np.argsort(-probabilities, kind="stable")[:top]
    shown = {model.card.classes[index]: _figure(probabilities[index]) for index in order}
    confidence = probabilities.max()
    return named | {
        "label": label,
        "confidence": _figure(confidence),
        "probabilities": shown,
        "unsure": is_unsure(model, confidence),
    }


def _figure(value: float) -> float:
    "The 7 digits that float32 has, as `export.predict` writes them."
    return float(f"{value:.7g}")


def is_unsure(model: Classifier | Ensemble, confidence: np.float32) -> bool | None:
    "True if the confidence is below the threshold of the model's promised precision; None if it promises none."
    threshold = model.card.threshold
    return None if threshold is None else bool(confidence < threshold)


def error_answer(refusal: HTTPException) -> Response:
    "The answer to a request that is refused."
    return json_answer({"error": refusal.detail}, refusal.status_code, refusal.headers)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    "An answer in strict JSON. It is ASCII: a file's name in a form may be no valid Unicode."
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")
