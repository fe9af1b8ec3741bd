"""Push experts or a model to the Hub, in one commit.

    distil-whisper push release user/whisper-base-pl                       a folder made by `distil-whisper release`
    distil-whisper push runs/pl user/whisper-base-pl --model openai/whisper-base    an expert, as training left it

Experts that the repository holds already stay. Log in first with `hf auth login`, or set HF_TOKEN: a token is never
taken from the command line, where others could read it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..places import check_hub_name, local_or_hub, missing_path
from .command_line import Parser
from .mistakes import Failed, program

PROGRAM = "distil-whisper push"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status, 1 if the push failed."""
    args = _parser().read(arguments)
    if not args.folder.is_dir():
        raise ValueError(missing_path(args.folder, "a folder to push"))
    check_hub_name(args.repo)
    base = None if args.model is None else local_or_hub(args.model, "the base (--model)")

    from ..publishing.push import HubPushError, PushOptions, push_folder
    from .release import make_release

    options = PushOptions(
        private=args.private, revision=args.revision, create_pr=args.create_pr, commit_message=args.message
    )
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder
        if base is not None:
            folder = Path(name) / "release"
            make_release([args.folder], base, args.repo, folder, base_model=args.base_model)
        try:
            commit = push_folder(folder, args.repo, options)
        except HubPushError as error:
            raise Failed(str(error)) from error
    print(commit.pr_url or commit.commit_url)
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("folder", type=Path, help="a release, a checkpoint, or a folder with expert files")
    parser.add_argument("repo", help="repository, as user/name; made if it is not there")
    parser.add_argument("--model", "--base", help="base of expert files that are no release yet: folder or Hub name")
    parser.add_argument("--base_model", help="the base's name on the Hub, where --model is a folder")
    parser.add_argument(
        "--private", action="store_true", default=None, section="repository", help="make a new repository private"
    )
    parser.add_argument("--revision", section="repository", help="branch to push to")
    parser.add_argument(
        "--create_pr", action="store_true", section="repository", help="open a pull request in place of a commit"
    )
    parser.add_argument("--message", section="repository", help="of the commit")
    return parser
