"""The routes of the service."""

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from export.browser.page import SCRIPTS, script
from export.browser.page import page as try_page
from export.serving.guard import Access, guarded
from export.serving.inference import LENGTH, inference_answer, model_metadata, read_inference
from export.serving.job import Unreadable
from export.serving.openapi import described, page
from export.serving.service import Service, json_answer, prediction
from toolkit.installation.packages import own_version

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def application(service: Service, access: Access) -> ASGIApp:
    "The ASGI application: /predict, the Open Inference Protocol, health, metrics, the page to try it, and OpenAPI's."
    base = f"/v2/models/{service.name}"
    document, front = described(service), try_page(service.model, service.name, "service")
    routes = [
        Route("/", _get(lambda: HTMLResponse(front.encode("utf-8", "replace")))),  # a file's name may be no Unicode
        *(_script(name) for name in SCRIPTS),
        Route("/docs", _get(lambda: HTMLResponse(page(document)))),
        Route("/openapi.json", _get(lambda: json_answer(document))),
        Route("/predict", _predict(service), methods=["POST"]),
        Route("/metrics", _get(lambda: Response(service.metrics.text(), media_type=METRICS_TYPE))),
        Route("/v2", _get(lambda: json_answer(server_metadata()))),
        Route("/v2/health/live", _get(lambda: json_answer({"live": True}))),
        Route("/v2/health/ready", _get(lambda: _readiness(service, {}))),
        Route(base, _get(lambda: json_answer(model_metadata(service.model, service.name)))),
        Route(f"{base}/ready", _get(lambda: _readiness(service, {"name": service.name}))),
        Route(f"{base}/infer", _infer(service), methods=["POST"]),
    ]
    app = Router(routes, redirect_slashes=False)
    return guarded(app, access, service.metrics, frozenset(route.path for route in routes))


def _get(answer: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
    "A route that does not depend on the request. It is async because Starlette calls others in threads."

    async def get(request: Request) -> Response:
        return answer()

    return get


def _script(name: str) -> Route:
    "A script of the front page."
    text = script(name)
    return Route(f"/{name}", _get(lambda: Response(text, 200, {"Cache-Control": "no-cache"}, "text/javascript")))


def server_metadata() -> dict[str, object]:
    "The server, as the Open Inference Protocol describes one."
    version = own_version()
    return {"name": "rapid-finetune", "version": version, "extensions": ["binary_tensor_data"]}


def _predict(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def predict(request: Request) -> Response:
        top = _top(request, len(service.model.card.classes))
        service.check_open()
        async with service.uploads.body(request) as body:
            photos = await service.uploads.photos(request, body)
            outcomes = await service.answers(request, [each.data for each in photos])
        entries = [
            prediction(service.model, each.name, outcome, top) for each, outcome in zip(photos, outcomes, strict=True)
        ]
        none_read = all(isinstance(outcome, Unreadable) for outcome in outcomes)
        return json_answer({"model": service.name, "predictions": entries}, 422 if none_read else 200)

    return predict


def _infer(service: Service) -> Callable[[Request], Awaitable[Response]]:
    metadata = model_metadata(service.model, service.name)

    async def infer(request: Request) -> Response:
        service.check_open()
        async with service.uploads.body(request) as body:
            asked = await service.uploads.parsed(read_inference, body, request.headers.get(LENGTH), metadata)
            service.uploads.check_count(len(asked.photos))
            outcomes = await service.answers(request, asked.photos)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Unreadable):
                raise HTTPException(422, f"photo {index}: {outcome}")
        return inference_answer(service.model, service.name, asked, outcomes)

    return infer


def _readiness(service: Service, named: dict[str, str]) -> Response:
    return json_answer(named | {"ready": service.ready}, 200 if service.ready else 503)


def _top(request: Request, classes: int) -> int | None:
    "The number of classes to tell, from `?top=`; None for all. Raises HTTPException 400."
    given = request.query_params.get("top")
    if given is None:
        return None
    if not (given.isdecimal() and len(given) < 10 and 1 <= int(given) <= classes):
        raise HTTPException(400, f"top={given:.20}: the model has {classes} classes; give 1 to {classes}")
    return int(given)
