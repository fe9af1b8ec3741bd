"""Serve transcriptions over HTTP by OpenAI's schema: its clients need another base_url and nothing else.

    distil-whisper serve --model openai/whisper-base --experts user/whisper-base-el-pl-ru --port 8000

`base` takes the expert of the language, given or detected, `base:pl` that expert. Requests that wait share batches,
whatever their languages. Keys are better in the environment (DISTIL_WHISPER_API_KEY, DISTIL_WHISPER_ADMIN_KEY), as
others may read command lines. Ctrl-C or SIGTERM lets what runs end first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .command_line import Parser, add_computing
from .mistakes import program

PROGRAM = "distil-whisper serve"
API_KEY, ADMIN_KEY = "DISTIL_WHISPER_API_KEY", "DISTIL_WHISPER_ADMIN_KEY"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program until it is stopped; returns the exit status."""
    args = _parser().read(arguments)
    if not 0 <= args.port <= 65535:
        raise ValueError(f"Expected a port from 0 to 65535, got {args.port}.")
    for name in ("max_file_mb", "max_audio_seconds", "timeout", "stop_seconds"):
        if getattr(args, name) <= 0:
            raise ValueError(f"Expected --{name} above 0, got {getattr(args, name)}.")
    keys = {}
    for name, variable in (("api_key", API_KEY), ("admin_key", ADMIN_KEY)):
        keys[name] = getattr(args, name) or os.environ.get(variable) or None
        if keys[name] is not None and not (keys[name].isascii() and keys[name].isprintable()):
            raise ValueError(f"Expected a key of printable ASCII signs in --{name} or {variable}, got others.")

    import torch
    import uvicorn
    from transformers.utils import logging

    from ..transcription.opening import open_model
    from ..transcription.server import Server, ServerSettings

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, processor = open_model(args.model, args.experts, device=args.device, dtype=args.dtype)
    settings = ServerSettings(
        **keys,
        most_bytes=round(args.max_file_mb * (1 << 20)),
        most_seconds=args.max_audio_seconds,
        timeout=args.timeout,
        stop_seconds=args.stop_seconds,
    )
    server = Server(model, processor, settings, batch_size=args.batch_size, most_waiting=args.queue_size)
    config = uvicorn.Config(
        server.app,
        host=args.host,
        port=args.port,
        log_level=args.log_level,
        timeout_graceful_shutdown=round(args.stop_seconds),
        server_header=False,
    )
    print(f"Serving {', '.join(('base', *(f'base:{name}' for name in model.expert_names)))}.", flush=True)
    uvicorn.Server(config).run()
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("--model", required=True, help="a Whisper: folder or Hub name")
    parser.add_argument("--experts", nargs="+", default=[], help="folders or repositories with experts for it")
    where = "address"
    parser.add_argument("--host", default="127.0.0.1", section=where, help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000, section=where, help="0: any that is free")
    parser.add_argument("--api_key", section=where, help=f"that clients must send, else {API_KEY}, else none")
    parser.add_argument("--admin_key", section=where, help=f"to change experts, else {ADMIN_KEY}, else nobody may")
    limits = "limits"
    parser.add_argument("--queue_size", type=int, default=64, section=limits, help="recordings in work or waiting")
    parser.add_argument("--max_file_mb", type=float, default=25.0, section=limits, help="MiB of an upload")
    parser.add_argument("--max_audio_seconds", type=float, default=3600.0, section=limits, help="of an upload")
    parser.add_argument("--timeout", type=float, default=600.0, section=limits, help="s of a request")
    parser.add_argument("--stop_seconds", type=float, default=60.0, section=limits, help="for what runs at the end")
    run = "run"
    parser.add_argument("--batch_size", type=int, default=8, section=run, help="windows decoded at once")
    add_computing(parser, section=run)
    parser.add_argument(
        "--log_level", choices=("critical", "error", "warning", "info", "debug"), default="info", rare=True,
        help="of the HTTP server",
    )  # fmt: skip
    return parser
