"""The explorer's JSON API and its page: this machine's browser asks, nothing is changed. Needs the extra `web`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flantune.errors import FlantuneError
from flantune.explore.collection import DrawFilter, TaskFilter, UnknownTask
from flantune.explore.explorer import Explorer, format_of
from flantune.explore.views import (
    BlockView,
    DrawsView,
    ExamplesView,
    Lengths,
    MixtureView,
    Overview,
    PackView,
    SearchView,
    StreamView,
    TasksView,
    TaskView,
    Unit,
)

HOSTS = ["127.0.0.1", "localhost"]  # a page that reaches us by any other name is someone else's (DNS rebinding)
FILES = {
    "": ("explore.html", "text/html"),
    "explore.css": ("explore.css", "text/css"),
    "favicon.svg": ("favicon.svg", "image/svg+xml"),
    **{name: (name, "text/javascript") for name in ("explore.js", "parts.js", "tasks.js", "stream.js")},
}
HEADERS = {
    # Text from data is put into the page as text, never as HTML; were it ever not, nothing in it could run or fetch.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Row = Annotated[int, Query(ge=0)]
Count = Annotated[int, Query(ge=1, le=200)]
Shots = Annotated[int | None, Query(ge=0, le=64)]
Index = Annotated[int, Query(ge=0, lt=1 << 48)]  # a stream has no end; 64-bit counters do


def make_app(explorer: Explorer) -> FastAPI:
    """The application: the page at /, its files beside it, and the API under /api."""
    # FastAPI's own documentation pages load scripts from elsewhere; the schema itself is at /api/openapi.json.
    app = FastAPI(title="flantune explore", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    _add_answers_to_errors(app)
    _add_page(app)
    _add_tasks(app, explorer)
    _add_stream(app, explorer)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return app


def _add_answers_to_errors(app: FastAPI) -> None:
    @app.exception_handler(FlantuneError)
    def ours(request: Request, error: FlantuneError) -> JSONResponse:
        status = 404 if isinstance(error, UnknownTask) else 400 if error.exit_code == 2 else 500
        return JSONResponse({"error": str(error)}, status_code=status)

    @app.exception_handler(RequestValidationError)
    def wrong_call(request: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{e['loc'][-1]}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        return JSONResponse({"error": told}, status_code=400)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response


def _add_page(app: FastAPI) -> None:
    folder = resources.files("flantune.explore").joinpath("page")

    def add(path: str, file: str, kind: str) -> None:
        content = folder.joinpath(file).read_bytes()

        @app.get(f"/{path}", include_in_schema=False)
        def page() -> Response:
            return Response(content, media_type=kind)

    for path, (file, kind) in FILES.items():
        add(path, file, kind)


def task_filter(
    words: str | None = None,
    mixture: str | None = None,
    category: str | None = None,
    language: str | None = None,
    source: str | None = None,
    format: str | None = None,
    has: str | None = None,
    use: str | None = None,
) -> TaskFilter:
    return TaskFilter(
        words=words,
        mixture=mixture,
        category=category,
        language=language,
        source=source,
        format=format,
        has=has,
        use=use,
    )


def draw_filter(
    mixture: str | None = None, category: str | None = None, format: str | None = None, task: str | None = None
) -> DrawFilter:
    return DrawFilter(mixture=mixture, category=category, format=format, task=task)


def _add_tasks(app: FastAPI, explorer: Explorer) -> None:
    collection = explorer.collection

    @app.get("/api/overview")
    def overview() -> Overview:
        return explorer.overview()

    @app.get("/api/tasks")
    def tasks(
        wanted: Annotated[TaskFilter, Depends(task_filter)],
        sort: Literal["name", "examples", "share", "category"] = "name",
        offset: Row = 0,
        limit: Count = 100,
    ) -> TasksView:
        return collection.tasks(wanted, sort, offset, limit)

    # A task's name has slashes in it, so it is asked for by query rather than by path.
    @app.get("/api/task")
    def task(name: str) -> TaskView:
        return explorer.alone(lambda: collection.task(name))

    @app.get("/api/task/lengths")
    def lengths(
        name: str, format: str = "zs_opt", shots: Shots = None, unit: Unit = "characters", seed: int = 0
    ) -> Lengths:
        asked = format_of(format, shots)
        return explorer.alone(
            lambda: collection.lengths(
                name, asked, unit=unit, tokenizer=explorer.tokenizer() if unit == "tokens" else None, seed=seed
            )
        )

    @app.get("/api/task/examples")
    def examples(
        name: str, format: str = "zs_opt", shots: Shots = None, seed: int = 0, start: Row = 0, count: Count = 5
    ) -> ExamplesView:
        asked = format_of(format, shots)
        return explorer.alone(lambda: collection.examples(name, asked, seed=seed, start=start, count=count))

    @app.get("/api/search")
    def search(
        text: str,
        wanted: Annotated[TaskFilter, Depends(task_filter)],
        start: str | None = None,
        limit: Count = 50,
        seconds: Annotated[float, Query(gt=0, le=30)] = 2.0,
    ) -> SearchView:
        return explorer.search(text, wanted, start, limit, seconds)


def _add_stream(app: FastAPI, explorer: Explorer) -> None:
    @app.get("/api/mixture")
    def mixture() -> MixtureView:
        return explorer.streamed(lambda stream: stream.mixture_view())

    @app.get("/api/stream")
    def draws(
        wanted: Annotated[DrawFilter, Depends(draw_filter)],
        start: Index = 0,
        count: Count = 20,
        backwards: bool = False,
    ) -> DrawsView:
        return explorer.streamed(lambda stream: stream.draws(start, count, wanted, backwards=backwards))

    @app.get("/api/stream/example")
    def example(at: Index, tokens: bool = True, pack: bool = False) -> StreamView:
        return explorer.streamed(lambda stream: stream.example(at, tokens=tokens, pack=pack))

    @app.get("/api/stream/pack")
    def pack(at: Index) -> PackView | None:
        return explorer.streamed(lambda stream: stream.pack(at))

    @app.get("/api/stream/block")
    def block(number: Index) -> BlockView:
        return explorer.streamed(lambda stream: stream.block_view(number))
