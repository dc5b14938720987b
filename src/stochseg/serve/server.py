"""The command `stochseg serve`: a model, a port, and a page on it."""

import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stochseg.data.image_files import list_images, name_of, read_image
from stochseg.errors import InputError
from stochseg.models.precision import resolve_device
from stochseg.models.segmenter import Segmenter, load
from stochseg.progress import say

MOST_EXAMPLES = 24
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECTION_SECONDS = 15.0
"""A connection that asks nothing, or takes nothing of its answer, in so long is closed: others may need its place."""
OPEN_CONNECTIONS = 256
"""Beyond so many, new requests are told to come back."""


def serve(
    run: str | Path,
    examples: Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    samples: int = 16,
    waiting: int = 64,
    seconds: float = 60.0,
    precision: str = "auto",
    device: str = "auto",
) -> None:
    """Show a model in the browser until it is stopped: choose or send an image, look at its samples.

    Args:
        run: run directory or exported model.
        examples: image files, folders or patterns to choose from; default: the example images of the run's evaluation.
        host: address to listen at. Any but a loopback address lets other machines in, who then need the token.
        port: port to listen at; 0 takes any that is free.
        token: asked of everybody; made up where the host is no loopback address.
        samples: samples of an image, until the page says otherwise.
        waiting: requests that may wait for the model; more are told to come back.
        seconds: how long they may wait.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
    """
    try:
        import uvicorn

        from stochseg.serve.app import Example, build_app
        from stochseg.serve.connections import patient_for
        from stochseg.serve.drawings import MOST_SAMPLES
        from stochseg.serve.uploads import example_image
    except ImportError as error:
        raise InputError(
            f"serve: takes {error.name}, which is not installed; run `pip install 'stochseg[serve]'`"
        ) from error

    for flag, value, least, most in (
        ("port", port, 0, 65535),
        ("samples", samples, 1, MOST_SAMPLES),
        ("waiting", waiting, 1, 10000),
        ("seconds", seconds, 1, 3600),
    ):
        if not least <= value <= most:
            raise InputError(f"--{flag} {value:g}: must be from {least} to {most}")
    if token is not None and len(token) < 8:
        raise InputError("--token: must have at least 8 characters")
    run = Path(run)
    model = load(run, precision, resolve_device(device))
    if model.needs_blackbox:
        raise InputError(
            f"{run}: sees a black box beside each image, which the page cannot give; use `stochseg sample`"
        )
    files = list_images(examples)[:MOST_EXAMPLES] if examples else []
    shown = [Example(name_of(file), read_image(file, model.channels, model.windows)) for file in files]
    if not examples:
        shown = [Example(name, example_image(pixels)) for name, pixels in _evaluated(run, model)]
    if host not in LOOPBACK and token is None:
        token = secrets.token_urlsafe(16)
    listening = _listen(host, port)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    if host not in LOOPBACK:
        say(
            f"warning: {host} lets other machines in; whoever has the address with its token can send images and use this "
            "machine, and nothing is encrypted: put it behind a server that speaks https, or keep to 127.0.0.1"
        )
    say(f"serving {run} at {url} (stop with Ctrl-C)")
    app = build_app(model, run.absolute().name, shown, samples, token, waiting, seconds)
    config = uvicorn.Config(
        app,
        http=patient_for(CONNECTION_SECONDS),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=OPEN_CONNECTIONS,
        timeout_keep_alive=int(CONNECTION_SECONDS),
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        say("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"--host {host} --port {port}: {reason}; choose another, or --port 0 for any free") from error
    return listening


def _evaluated(run: Path, model: Segmenter) -> list[tuple[str, np.ndarray]]:
    """The example images that `stochseg evaluate` left in a run: names, and uint8 [c h w]."""
    for file in sorted((run / "evaluation").glob("*_examples.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                images = arrays["images"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{file}: damaged ({error}); run `stochseg evaluate` again") from error
        if images.shape[1] in (model.channels, 1):
            return [(f"example {i}", pixels) for i, pixels in enumerate(images[:MOST_EXAMPLES], 1)]
    return []
