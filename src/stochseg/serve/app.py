"""The addresses that the page asks: images in, facts and pictures out."""

import functools
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from stochseg.errors import InputError
from stochseg.models.segmenter import Segmenter
from stochseg.progress import say
from stochseg.serve import pictures
from stochseg.serve.drawings import MOST_SAMPLES, Drawing, Kept, as_npz, as_zip, between, draw
from stochseg.serve.guard import Busy, Gate, Guard, answer
from stochseg.serve.uploads import KINDS, MAX_BYTES, MAX_PIXELS, read_upload

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
UPLOADS = 8
"""Bodies that are read at once, each of which takes up to MAX_BYTES of memory."""
UPLOAD_SECONDS = 60.0
"""An upload that takes longer is given up."""


@dataclass(frozen=True)
class Example:
    """An image [c h w] in [-1, 1] to choose on the page."""

    name: str
    image: Tensor


def build_app(
    model: Segmenter,
    title: str,
    examples: Sequence[Example],
    samples: int,
    token: str | None,
    waiting: int,
    seconds: float,
) -> Starlette:
    """The web application around a model.

    title: what the page is called; samples: drawn where the page does not say; token: see `Guard`; waiting, seconds: how
    many requests may wait for the model, and how long.
    """
    kept, gate, uploads = Kept(), Gate(waiting, seconds), Gate(waiting, seconds, UPLOADS)

    async def info(request: Request) -> Response:
        h, w = model.size
        return JSONResponse(
            {
                "title": title,
                "method": model.method,
                "size": [w, h],
                "classes": [{"name": c.name, "color": list(c.color)} for c in model.classes],
                "examples": [example.name for example in examples],
                "samples": samples,
                "most_samples": MOST_SAMPLES,
                "kinds": list(KINDS),
                "most_megabytes": MAX_BYTES // 2**20,
                "most_pixels": MAX_PIXELS,
            }
        )

    async def example_picture(request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(examples):
            return answer(404, f"example {number}: there are {len(examples)}")
        return _png(pictures.image_picture(examples[number].image))

    async def scale(request: Request) -> Response:
        return _png(pictures.scale_picture(request.path_params["name"]))

    async def drawn(request: Request) -> Response:
        """An image, sent as the body of the request or named by example=NUMBER, and its samples."""
        asked = request.query_params
        count, seed = _number(asked.get("samples", samples), "samples"), _number(asked.get("seed", 0), "seed")
        if "example" in asked:
            number = _number(asked["example"], "example")
            if not 0 <= number < len(examples):
                raise InputError(f"example {number}: there are {len(examples)}")
            name, image = examples[number].name, examples[number].image
        else:
            name = asked.get("name", "")
            async with uploads.turn():
                content = await _body(request)
                image = await anyio.to_thread.run_sync(read_upload, content, name, model.channels, model.windows)
        drawing = await gate.run(draw, model, image, name, count, seed)
        return JSONResponse({"id": kept.add(drawing), **drawing.facts(len(model.classes))})

    async def picture(request: Request) -> Response:
        drawing, what = _found(kept, request), request.path_params["what"]
        match what:
            case "image":
                return _png(pictures.image_picture(drawing.image[0]))
            case "mean":
                return _png(pictures.mean_layer(drawing.mean, model.classes))
            case "entropy":
                return _png(pictures.entropy_layer(drawing.mean))
        return answer(404, f"{what}: there are image, mean and entropy")

    async def sample(request: Request) -> Response:
        drawing, number = _found(kept, request), request.path_params["number"]
        if number >= len(drawing.maps):
            return answer(404, f"sample {number}: samples are 0 to {len(drawing.maps) - 1}")
        return _png(pictures.map_layer(drawing.maps[number], model.classes))

    async def walk(request: Request) -> Response:
        drawing, asked = _found(kept, request), request.query_params
        one, other = (_number(asked.get(name, ""), name) for name in ("one", "other"))
        try:
            part = float(asked.get("part", ""))
        except ValueError as error:
            raise InputError(f"part {asked.get('part')}: must be from 0 to 1") from error
        map_ = await gate.run(between, model, drawing, one, other, part)
        areas = ",".join(str(int((map_ == c).sum())) for c in range(len(model.classes)))
        return _png(pictures.map_layer(map_, model.classes), {"x-areas": areas})

    async def download(request: Request) -> Response:
        drawing, kind = _found(kept, request), request.path_params["kind"]
        make = functools.partial(as_npz, drawing) if kind == "npz" else functools.partial(as_zip, drawing, model)
        content = await anyio.to_thread.run_sync(make)
        named = {"content-disposition": f'attachment; filename="samples.{kind}"'}
        return Response(content, media_type="application/octet-stream", headers=named)

    async def file(request: Request) -> Response:
        return FileResponse(PAGE / FILES[request.url.path])

    routes = [
        *(Route(path, file) for path in FILES),
        Route("/api/info", info),
        Route("/api/examples/{number:int}.png", _careful(example_picture)),
        Route("/api/scales/{name}.png", scale),
        Route("/api/drawings", _careful(drawn), methods=["POST"]),
        Route("/api/drawings/{id}/samples/{number:int}.png", _careful(sample)),
        Route("/api/drawings/{id}/walk.png", _careful(walk)),
        Route("/api/drawings/{id}/samples.{kind}", _careful(download)),
        Route("/api/drawings/{id}/{what}.png", _careful(picture)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


class _Gone(Exception):
    """A drawing that is no longer kept."""


def _careful(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The handler with errors as answers of one line, which tell nothing of this machine."""

    async def careful(request: Request) -> Response:
        try:
            return await handler(request)
        except InputError as error:
            forget_frames(error)
            return answer(400, str(error))
        except _Gone:
            return answer(404, "drawn too long ago, and forgotten since; draw it again")
        except Busy:
            return answer(503, "busy with other requests; try again in a few seconds")
        except ClientDisconnect:
            return answer(400, "the sender went away")
        except Exception as error:
            say(f"stochseg serve: unexpected {type(error).__name__}: {' '.join(str(error).split())}")
            return answer(500, "something went wrong here; the terminal where stochseg runs says what")

    return careful


def forget_frames(error: BaseException | None) -> None:
    """Let go of what was at hand where an error was raised: uploads would stay in memory until the next large sweep."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


async def _body(request: Request) -> bytes:
    """The body of a request, no more than MAX_BYTES and no longer than UPLOAD_SECONDS.

    What comes beyond is read and dropped up to as much again: a sender who is cut off would never read why.
    """
    parts, size = [], 0
    try:
        with anyio.fail_after(UPLOAD_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BYTES:
                    parts.append(part)
                elif size > 2 * MAX_BYTES:
                    break
    except TimeoutError as error:
        raise InputError(f"the file took longer than {UPLOAD_SECONDS:g} s to arrive; send a smaller one") from error
    if size > MAX_BYTES:
        raise InputError(f"the file is too large; files up to {MAX_BYTES // 2**20} MB are read")
    return b"".join(parts)


def _found(kept: Kept, request: Request) -> Drawing:
    drawing = kept.get(request.path_params["id"])
    if drawing is None:
        raise _Gone
    return drawing


def _number(text: Any, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} {str(text)[:20]}: must be a whole number") from error


def _png(content: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(content, media_type="image/png", headers=headers)
