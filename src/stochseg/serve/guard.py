"""Who may ask, and how much at once."""

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

COOKIE = "stochseg-token"
ASKED_BY_PAGE = "x-stochseg"
"""A header that only the page itself sends: other sites in the same browser cannot."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Lets through what may ask, and closes each answer against other sites.

    token: None for everybody who reaches a loopback address; then the name that was asked for must be one too, so that
    no other site's name that points here is answered. Else each request needs the token: once as `/?token=...`, which
    leaves a cookie, or as `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, receive, closed)

    def _refusal(self, request: Request) -> ASGIApp | None:
        if self.token is None:
            if _host(request.headers) not in LOOPBACK:
                return answer(403, "asked for under another name than this machine's own; open the address as printed")
        elif not any(hmac.compare_digest(given.encode(), self.token.encode()) for given in _tokens(request)):
            return answer(401, "the token is missing; open the address as `stochseg serve` printed it, with ?token=...")
        elif "token" in request.query_params and request.method == "GET":
            away = RedirectResponse(
                "/" + request.url.path.lstrip("/"), 303
            )  # so that the token does not stay in the address
            away.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return away
        if request.method == "POST" and ASKED_BY_PAGE not in request.headers:
            return answer(403, f"the header {ASKED_BY_PAGE} is missing; send it with any value")
        return None


class Busy(Exception):
    """More is asked than can wait, or it waited too long."""


class Gate:
    """So much work at a time. waiting: how many may wait for their turn; seconds: how long; at_once: how many have one."""

    def __init__(self, waiting: int, seconds: float, at_once: int = 1) -> None:
        self.most, self.seconds = waiting, seconds
        self.waiting = 0
        self._turns = anyio.Semaphore(at_once)

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """What the call returns, in a thread of its own; Busy where it cannot be done soon."""
        async with self.turn():
            return await anyio.to_thread.run_sync(call, *arguments)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """For a block of work; Busy where its turn does not come soon."""
        if self.waiting >= self.most:
            raise Busy
        self.waiting += 1
        try:
            with anyio.fail_after(self.seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Busy from error
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()


def answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, {"retry-after": "5"} if status == 503 else None)


def _host(headers: Headers) -> str:
    host = headers.get("host", "")
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _tokens(request: Request) -> list[str]:
    given = [request.query_params.get("token"), request.cookies.get(COOKIE)]
    kind, _, bearer = request.headers.get("authorization", "").partition(" ")
    return [token for token in (*given, bearer if kind.lower() == "bearer" else None) if token]
