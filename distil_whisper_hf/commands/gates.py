"""Draw where the gates of an expert are open on a recording: layers over time, and over the tokens that it wrote.

    distil-whisper gates talk.wav --model openai/whisper-base --experts runs/pl --output gates.png
    distil-whisper gates talk.wav --model openai/whisper-base --experts runs/pl --expert pl --start 30 --output pl.pdf

Of one window of 30 s, from --start on. Needs matplotlib (`pip install "distil_whisper_hf[eval]"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .command_line import Parser
from .mistakes import program
from .output_folders import check_output_dir
from .starting import check_libraries

if TYPE_CHECKING:
    import numpy as np

    from ..transcription.results import Transcription
    from ..transcription.transcriber import Transcriber

PROGRAM = "distil-whisper gates"
SUFFIXES = (".png", ".pdf", ".svg")


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    if args.output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Expected --output to end in {', '.join(SUFFIXES)}, got {args.output.name!r}.")
    if args.start < 0:
        raise ValueError(f"Expected --start of at least 0 s, got {args.start:g}.")
    check_output_dir(args.output.parent)
    check_libraries(["matplotlib"], what="the picture")
    from transformers.utils import logging

    from ..audio_input import load_audio
    from ..evaluation.report.gate_maps import FRAMES_PER_SECOND, draw_gate_map
    from ..transcription.opening import open_model
    from ..transcription.options import TranscriptionOptions
    from ..transcription.recordings import SAMPLING_RATE
    from ..transcription.transcriber import Transcriber

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    waveform, _ = load_audio(args.file, SAMPLING_RATE)
    begin = round(args.start * SAMPLING_RATE)
    if begin >= len(waveform):
        seconds = len(waveform) / SAMPLING_RATE
        raise ValueError(f"Expected --start inside the recording of {seconds:.1f} s, got {args.start:g} s.")
    model, processor = open_model(args.model, args.experts, device=args.device)
    transcriber = Transcriber(model, processor, batch_size=1)
    window = waveform[begin : begin + transcriber.decoder.window_seconds * SAMPLING_RATE]
    options = TranscriptionOptions(language=args.language, expert=args.expert, temperature=(0.0,), word_timestamps=True)
    (found,) = transcriber.transcribe([window], options)
    if found.expert is None:
        loaded = ", ".join(model.expert_names) or "none"
        raise ValueError(
            f"Expected a recording in the language of an expert ({loaded}), got {found.language!r}: name the language "
            "(--language) or the expert (--expert)."
        )
    encoder, decoder, tokens = _gates(transcriber, window, found)
    frames = -(-len(window) * FRAMES_PER_SECOND // SAMPLING_RATE)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_gate_map(
        args.output,
        encoder[:, :frames],
        decoder,
        words=[(word.word, word.start, word.end) for one in found.segments for word in one.words or ()],
        tokens=tokens,
        title=f"{args.file.name}, expert {found.expert}",
    )
    print(found.text.strip())
    for side, gates in (("encoder", encoder[:, :frames]), ("decoder", decoder)):
        shares = ", ".join(f"{share:.0%}" for share in gates.mean(axis=1)) if gates.size else "no gates"
        print(f"{side}, open by layer: {shares}")
    print(args.output)
    return 0


def _gates(
    transcriber: Transcriber, window: np.ndarray, found: Transcription
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decisions of the encoder's gates `(layers, frames)` and of the decoder's `(layers, tokens)`, and the tokens."""
    import numpy as np
    import torch

    decoder, model = transcriber.decoder, transcriber.decoder.model
    prompt = decoder.prompt(found.language, found.task)
    written = [token for segment in found.segments for token in segment.tokens]
    limit = model.config.max_target_positions
    given = torch.tensor([[*prompt, *written][:limit]], device=model.device)
    with torch.inference_mode():
        made = model(
            decoder.features([window]),
            decoder_input_ids=given,
            expert_ids=torch.tensor([model.expert_index(str(found.expert))], device=model.device),
            output_gate_values=True,
            use_cache=False,
        )
    sides = [made.encoder_gate_values, made.decoder_gate_values]
    encoder, over_tokens = (
        np.stack([gate[0].float().cpu().numpy() for gate in side]) if side else np.zeros((0, 0)) for side in sides
    )
    texts = [decoder.processor.tokenizer.decode([token], decode_with_timestamps=True) for token in given[0].tolist()]
    return encoder, over_tokens, [text.strip() or "·" for text in texts]


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("file", type=Path, help="a recording")
    parser.add_argument("--model", required=True, help="a Whisper: folder or Hub name")
    parser.add_argument("--experts", nargs="+", default=[], help="folders or repositories with experts for it")
    parser.add_argument("--expert", metavar="NAME", help="of that name, over that of the language")
    parser.add_argument("--language", metavar="NAME", help="of the recording, else detected")
    parser.add_argument("--start", type=float, default=0.0, section="result", help="begin of the window, in s")
    parser.add_argument("--output", type=Path, required=True, section="result", help="picture: .png, .pdf or .svg")
    parser.add_argument("--device", default="auto", section="result", help="auto, cpu, cuda, cuda:1, mps")
    return parser
