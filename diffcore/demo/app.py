"""The server of the page: what each address answers."""

import asyncio
import contextlib
import gzip
import io
import logging
import secrets
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from diffcore.api.modes import in_own_modes
from diffcore.api.run import Run
from diffcore.demo.drawing import Sources, draw, read_sample
from diffcore.demo.guard import FRAME_POLICY, Guard
from diffcore.demo.jobs import Job, Jobs
from diffcore.demo.limits import Limits
from diffcore.demo.offer import ZIP, downloads_of, names_of, offer_of, widget_of
from diffcore.demo.tiles import tiles_of
from diffcore.demo.visitors import KEPT, Shown, Visitor, Visitors
from diffcore.demo.wanted import Wanted
from diffcore.demo.words import FAILED, PREFIX, told
from diffcore.errors import RAISED_BY_PLUGINS, UserError
from diffcore.runs.samples import Samples

logger = logging.getLogger(__name__)

LONGEST_WAIT = 10.0
"""A question for news of a job is answered after so many seconds, even if there are none."""
_GZIP = b"\x1f\x8b"
_STATIC = {"page.js": "text/javascript", "page.css": "text/css"}


class Demo:
    """The page of some runs. `app` is an ASGI application; `close` ends what is being drawn and deletes all files."""

    def __init__(self, runs: Sequence[Run], port: int, token: str | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.token = token or secrets.token_urlsafe(24)
        self.visitors = Visitors(self.limits)
        self._runs = list(runs)
        names = names_of([run.path for run in runs])
        self._offers = [offer_of(run, name, self.limits) for run, name in zip(runs, names, strict=True)]
        self._jobs = Jobs(self._work, self.limits)
        routes = [
            Route("/", self._page),
            Route("/frame", self._frame),
            *(Route(f"/{name}", self._static) for name in _STATIC),
            Route("/runs", self._list),
            Route("/jobs", _plainly(self._add), methods=["POST"]),
            Route("/jobs/{name}", _plainly(self._news)),
            Route("/jobs/{name}/cancel", _plainly(self._cancel), methods=["POST"]),
            Route("/files", _plainly(self._upload), methods=["POST"]),
            Route("/widget", _plainly(self._widget), methods=["POST"]),
            Route("/kept", _plainly(self._kept), methods=["GET", "POST"]),
            Route("/download", _plainly(self._download)),
        ]
        hosts = {f"{host}:{port}" for host in ("127.0.0.1", "localhost")}
        self.app = Guard(Starlette(routes=routes), self.token, hosts, self.visitors, f"diffcore-{port}")

    def close(self) -> None:
        """End what is being drawn, and delete what belongs to visitors."""
        try:
            self._jobs.close()
        finally:  # also if Ctrl-C comes twice
            self.visitors.forget_all()

    def _work(self, job: Job) -> str:
        """Draw what a job asks for."""
        visitor, run = job.visitor, self._runs[job.wanted.run]
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            sources = Sources(visitor.file, visitor.sample)
            samples = draw(run, job.wanted, sources, self.limits, Path(folder), job.show)
            tiles = in_own_modes(tiles_of)(samples)
        job.show(tiles, 1.0)
        return visitor.add_result(job.wanted.run, samples, tiles)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(_text("page.html"))

    async def _static(self, request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        return Response(_text(name), media_type=_STATIC[name])

    async def _frame(self, request: Request) -> Response:
        return HTMLResponse(_text("frame.html"), headers={"content-security-policy": FRAME_POLICY})

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self._offers)

    async def _add(self, request: Request) -> Response:
        wanted = _checked(await _body(request, self.limits.body_bytes))
        self._run(wanted.run)
        return JSONResponse({"job": self._jobs.add(_visitor(request), wanted).name})

    async def _news(self, request: Request) -> Response:
        """The state of a job, as soon as it differs from the version that the page has."""
        job = self._jobs.of(_visitor(request), request.path_params["name"])
        after = _number(request, "after", -1)
        for _ in range(round(LONGEST_WAIT / 0.02)):
            if job.version > after or job.ended:
                break
            await asyncio.sleep(0.02)
        version = job.version
        news: dict[str, Any] = {"version": version, "state": job.state, "done": job.done, "message": job.message}
        if job.state == "waiting":
            news["ahead"] = self._jobs.ahead(job)
        if job.pictured > after:
            news["tiles"] = job.tiles
        if job.result is not None:
            news["result"] = job.result
        return JSONResponse(news)

    async def _cancel(self, request: Request) -> Response:
        self._jobs.cancel(self._jobs.of(_visitor(request), request.path_params["name"]))
        return JSONResponse({})

    async def _upload(self, request: Request) -> Response:
        """Store a file of the visitor. The body is the file, and `ending` the end of its name."""
        visitor, most = _visitor(request), self.limits.file_bytes
        content = await _body(request, most)
        if content.startswith(_GZIP) and await run_in_threadpool(_decompressed, content, most) > most:
            raise UserError(f"this is larger than {most / 2**20:.3g} MiB when it is decompressed")
        name, path = visitor.new_file(request.query_params.get("ending", ""))
        await run_in_threadpool(path.write_bytes, content)
        return JSONResponse({"file": name})

    async def _widget(self, request: Request) -> Response:
        """The fragment with which an argument is set for a sample."""
        wanted = _checked(await _body(request, self.limits.body_bytes))
        argument = request.query_params.get("argument", "")
        visitor, run = _visitor(request), self._run(wanted.run)

        def make() -> str:
            source = wanted.source
            if source is None:
                raise UserError("choose a sample or a file")
            if source.file is not None:
                sample = read_sample(run, visitor.file(source.file))
            else:
                sample = visitor.sample(source.result or "", source.sample)[1]
            return in_own_modes(widget_of)(run, argument, sample)

        return JSONResponse({"html": await run_in_threadpool(make)})

    async def _kept(self, request: Request) -> Response:
        """What the visitor keeps; with POST, after a sample was added or dropped."""
        visitor = _visitor(request)
        if request.method == "POST":
            number = _number(request, "sample")
            if request.query_params.get("drop"):
                visitor.drop(number)
            else:
                visitor.keep(request.query_params.get("result", ""), number)
        numbers, kept = list(visitor.kept), visitor.result(KEPT)
        runs = [shown.run for shown in kept]
        return JSONResponse({"tiles": [shown.tile for shown in kept], "runs": runs, "numbers": numbers})

    async def _download(self, request: Request) -> Response:
        """A file of one sample, or of all of a result; `.zip` has one file for each sample."""
        visitor, ending = _visitor(request), request.query_params.get("ending", ZIP)
        result = request.query_params.get("result", "")
        every = visitor.result(result)
        if "sample" in request.query_params:
            every = [visitor.shown(result, _number(request, "sample"))]
        if not every:
            raise UserError("there is nothing to save")
        if any(ending not in downloads_of(self._run(number)) for number in {shown.run for shown in every}):
            raise UserError(f"samples of this kind cannot be saved as {ending!r}")
        if ending != ZIP and len(every) > 1 and not _whole(every):
            raise UserError(f"samples of several drawings are saved as {ZIP}")
        folder = Path(tempfile.mkdtemp(prefix="download-", dir=visitor.folder))
        try:
            path = await run_in_threadpool(_saved, every, folder, ending)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(path, filename=path.name, background=clean)

    def _run(self, number: int) -> Run:
        if not 0 <= number < len(self._runs):
            raise UserError(f"there is no run {number} on this page")
        return self._runs[number]


@in_own_modes
def _saved(every: Sequence[Shown], folder: Path, ending: str) -> Path:
    """The samples in one file in the folder: in a file of their kind of data, or in an archive of files."""
    if ending != ZIP:
        samples = every[0].samples if _whole(every) else every[0].alone
        return samples.save(folder / f"samples{ending}")
    with zipfile.ZipFile(folder / "samples.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, samples in enumerate([every[0].samples] if _whole(every) else [shown.alone for shown in every]):
            place = folder / f"{number}"
            samples.save(place)
            for path in sorted(path for path in place.rglob("*") if path.is_file()):
                inside = path.relative_to(place)
                archive.write(path, inside if _whole(every) else Path(f"{number:04d}") / inside)
    return folder / "samples.zip"


def _whole(every: Sequence[Shown]) -> bool:
    """Whether these are all samples of one batch, in order."""
    samples: Samples = every[0].samples
    return len(every) == len(samples) and all(
        shown.samples is samples and shown.row == row for row, shown in enumerate(every)
    )


def _text(name: str) -> str:
    return files("diffcore.demo").joinpath("static", name).read_text(encoding="utf-8")


def _decompressed(content: bytes, most: int) -> int:
    """The bytes of a gzip file after decompression, counted up to a little more than `most`."""
    size = 0
    with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(content)) as file:
        while size <= most and (block := file.read(2**16)):  # what is damaged is refused by its reader
            size += len(block)
    return size


def _visitor(request: Request) -> Visitor:
    visitor: Visitor = request.scope["visitor"]
    return visitor


def _number(request: Request, name: str, default: int | None = None) -> int:
    try:
        return int(request.query_params[name] if default is None else request.query_params.get(name, default))
    except (KeyError, ValueError):
        raise UserError(f"{name} is not a number") from None


async def _body(request: Request, most: int) -> bytes:
    """The body of a request. Raises `UserError` if it has more than `most` bytes, before they are in memory."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise UserError(f"this is larger than {most / 2**20:.3g} MiB, the most that this page takes")
        parts.append(part)
    return b"".join(parts)


def _checked(body: bytes) -> Wanted:
    try:
        return Wanted.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        what, said = ".".join(map(str, first["loc"])) or "the request", first["msg"].removeprefix("Value error, ")
        raise UserError(f"{what}: {said}") from None


def _plainly(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """`answer`, with mistakes of the visitor and errors of the program as one line of text."""

    async def answered(request: Request) -> Response:
        try:
            response: Response = await answer(request)
        except UserError as error:
            return PlainTextResponse(told(error), 400)
        except ClientDisconnect:  # nobody reads the answer
            return PlainTextResponse("", 400)
        except RAISED_BY_PLUGINS:
            logger.exception("a request of the page failed")
            return PlainTextResponse(FAILED, 500)
        return response

    return answered
