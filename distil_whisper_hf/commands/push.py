"""Push experts or a model to the Hub, in one commit.

    distil-whisper push release user/whisper-base-pl                       a folder made by `distil-whisper release`
    distil-whisper push runs/pl user/whisper-base-pl --base openai/whisper-base    an expert, as training left it

Experts that the repository holds already stay. Log in first with `hf auth login`, or set HF_TOKEN: a token is never
taken from the command line, where others could read it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status, 1 if the push failed."""
    parser = argparse.ArgumentParser(
        prog="distil-whisper push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a release, a checkpoint, or a folder with expert files")
    parser.add_argument("repo", help="repository, as user/name; made if it is not there")
    parser.add_argument("--base", help="base of expert files that are no release yet: folder or Hub name")
    parser.add_argument("--base-model", help="the base's name on the Hub, where --base is a folder")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request in place of a commit")
    parser.add_argument("--message", help="of the commit")
    args = parser.parse_args(arguments)

    from ..publishing.push import HubPushError, PushOptions, push_folder
    from .release import make_release

    options = PushOptions(
        private=args.private, revision=args.revision, create_pr=args.create_pr, commit_message=args.message
    )
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder
        if args.base is not None:
            folder = Path(name) / "release"
            make_release([args.folder], args.base, args.repo, folder, base_model=args.base_model)
        try:
            commit = push_folder(folder, args.repo, options)
        except HubPushError as error:
            print(error, file=sys.stderr)
            return 1
    print(commit.pr_url or commit.commit_url)
    return 0
