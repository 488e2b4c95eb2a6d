"""Who may use the page: the visitor who opened it with its token, from a page of this server, and nobody else."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from diffcore.demo.visitors import Visitors

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy of the page: nothing but its own files."""

FRAME_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""That of the frames in which fragments of plugins are shown: scripts, but no network and no access to the page."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_ENTRANCE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>diffcore</title><link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={address}">
</head><body><a href="{address}">Open the page</a></body></html>"""


class Guard:
    """An ASGI application around another one, which it calls for requests of known visitors only.

    * The `Host` must be one of `hosts`, against names that other sites point to this machine (DNS rebinding).
    * The browser must not say that another site or another port asks (`Sec-Fetch-Site`, `Origin`).
    * A new visitor needs the `token` in the address of the page, and gets a cookie for it.
    * All addresses lie in a folder with a secret name. Browsers send a cookie to all ports of a host, so servers of
      other users on this machine would get it; they do not know the folder that it is bound to.

    `scope["visitor"]` is the visitor, and `scope["path"]` the path within the folder.
    """

    def __init__(self, app: Any, token: str, hosts: set[str], visitors: Visitors, cookie: str) -> None:
        self._app, self._token, self._hosts, self._visitors, self._cookie = app, token, hosts, visitors, cookie
        self._folder = f"/{secrets.token_urlsafe(9)}"

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = {"content-security-policy": PAGE_POLICY, **_HEADERS}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in more.items() if name.encode() not in own),
                ]
            await send(message)

        request = Request(scope)  # type: ignore[arg-type]
        response = self._refusal(request.headers) or self._entry(request)
        inside = {**scope, "path": scope["path"].removeprefix(self._folder)}
        await (self._app if response is None else response)(inside, receive, guarded)

    def _refusal(self, headers: Headers) -> Response | None:
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this address is not one of this page", 421)
        return None

    def _entry(self, request: Request) -> Response | None:
        """The response to whoever is not let in, or who comes with the token; None for known visitors."""
        token, path = request.query_params.get("token"), request.url.path
        within = path.startswith(f"{self._folder}/")
        visitor = self._visitors.known(request.cookies.get(self._cookie, "")) if within else None
        if request.method == "GET" and path in ("/", f"{self._folder}/") and token is not None:
            if not secrets.compare_digest(token.encode(), self._token.encode()):
                return PlainTextResponse("the token is wrong: open the address that the terminal shows", 403)
            if not within:
                # A page and no redirection: browsers send no strict cookie to where a link of another site leads, also
                # after redirections, but they do where this page leads.
                return HTMLResponse(_ENTRANCE.format(address=f"{self._folder}/?token={self._token}"))
            response = RedirectResponse(f"{self._folder}/", 303)
            if visitor is None:
                name = self._visitors.new().name
                response.set_cookie(self._cookie, name, httponly=True, samesite="strict", path=f"{self._folder}/")
            return response
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        reads = request.method in ("GET", "HEAD") and path in ("/", f"{self._folder}/")
        if (origin is not None and origin != f"http://{request.headers['host']}") or (
            site not in ("same-origin", "none") and not reads
        ):
            return PlainTextResponse("another site may not use this page", 403)
        if visitor is None:
            words = "open the address that the terminal shows, with its token, in a browser that accepts cookies"
            return PlainTextResponse(words, 403)
        request.scope["visitor"] = visitor
        return None
