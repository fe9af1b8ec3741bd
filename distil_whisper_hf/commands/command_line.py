"""One dialect for the flags of all programs.

A program whose flags are the fields of dataclasses, with JSON recipes before the first flag:

    @program("distil-whisper train")
    def main(arguments: Sequence[str]) -> int:
        kinds = (RunArguments, TrainingArguments)
        run, training = parse(kinds, arguments, program="distil-whisper train", description=__doc__)

and one that names its flags itself:

    @program("distil-whisper convert")
    def main(arguments: Sequence[str]) -> int:
        parser = Parser("distil-whisper convert", __doc__)
        parser.add_argument("source", help="local copy")
        # --output is taken, and not listed.
        parser.add_argument("--output_dir", "--output", section="run", help="folder to make")
        # Listed by --help_all alone.
        parser.add_argument("--seed", type=int, default=0, rare=True, help="of the sample inputs")
        args = parser.read(arguments)

Names have underscores; hyphens are taken too, and `--name=value`. Abbreviations are not: a script that uses one breaks
as soon as another flag begins alike. `--help` lists what people set, `--help_all` everything. Every mistake is a
`ValueError` of one sentence, which `mistakes.program` turns into status 2. What a name of the command line may stand
for is in `places`, whether a folder can be written to in `output_folders`.

The same thing has the same flag everywhere: `--model` (a Whisper), `--experts` (a folder or repository with experts),
`--data`, `--test_data`, `--test_limit` (most clips of a test set), `--language`, `--output_dir`.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from argparse import SUPPRESS, Action, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..places import missing_path
from ..secret_tokens import MASK
from .mistakes import HelpAsked
from .recipe_values import annotations, checked_value
from .stock_flags import RENAMED

# What the programs with dataclasses show in --help, in this order; a program has those that it knows.
SECTIONS: dict[str, tuple[str, ...]] = {
    "what is trained": ("model", "method", "lora_rank", "teacher", "expert_rank"),
    "data": ("data", "language", "test_data", "where", "split_by", "subset", "streaming", "join_seconds"),
    "method": ("distillation", "distillation_weight", "gate_budget", "gate_estimator"),
    "run": (
        "output_dir",
        "dry_run",
        "resume",
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "bf16",
        "seed",
    ),
    "test": ("test", "test_limit", "test_only"),
}
OTHERS = "others"
WIDTH, COLUMN = 100, 36
_METAVARS = {int: "N", float: "X", Path: "PATH"}


class Parser(HfArgumentParser):
    """A parser that takes one dialect, and says every mistake in one sentence.

    Args:
        program: as it is called, such as "distil-whisper convert".
        description: shown as it stands, with its examples.
        kinds: dataclasses whose fields are flags.
        sections: title -> names of the flags in it, for the fields of `kinds`; a field in none is shown in
            `--help_all` alone.
    """

    def __init__(
        self,
        program: str,
        description: str,
        *,
        kinds: Sequence[type] = (),
        sections: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        sections = sections or {}
        # HfArgumentParser adds the fields while it is made.
        self._section_of = {name: title for title, names in sections.items() for name in names}
        self._order = [name for names in sections.values() for name in names]
        self._shown: dict[str, list[Action]] = {"input": [], **{title: [] for title in sections}}
        self._rare: list[Action] = []
        # Any spelling, with underscores -> the flag.
        self._spellings: dict[str, str] = {}
        self._by_name: dict[str, Action] = {}
        self._kinds = annotations(kinds)
        super().__init__(
            list(kinds),
            prog=program,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        for actions in self._shown.values():
            actions.sort(key=lambda action: self._order.index(action.dest) if action.dest in self._order else 0)

    def add_argument(self, *names: str, section: str | None = None, rare: bool = False, **options: Any) -> Action:
        """Add an argument.

        Args:
            names: the flag as help shows it, then other spellings, which are taken and not shown.
            section: title in the help; without one "input", or for a field of a dataclass that of `sections`.
            rare: show it in `--help_all` alone.
            options: as for argparse.
        """
        flag = names[0].startswith("-")
        if flag:
            names = tuple(_underscored(name) for name in names)
            self._spellings |= dict.fromkeys((name.removeprefix("--") for name in names), names[0])
        action = super().add_argument(names[0], **options)
        if action.metavar is None and action.choices is None and action.nargs != 0:
            action.metavar = _METAVARS.get(action.type, "TEXT") if flag else action.dest.upper()
        name = names[0].removeprefix("--")
        self._by_name.setdefault(name, action)
        section = section or self._section_of.get(name) or (None if self._kinds and flag else "input")
        if rare or section is None:
            self._rare.append(action)
        else:
            self._shown.setdefault(section, []).append(action)
        return action

    def read(self, arguments: Sequence[str] | None = None) -> Namespace:
        """The arguments; None takes the words of the command line.

        Raises:
            HelpAsked: with the text, for `-h`, `--help` and `--help_all`.
            ValueError: words that cannot be used.
        """
        return self.parse_args(self.spell(sys.argv[1:] if arguments is None else arguments))

    def spell(self, words: Sequence[str]) -> list[str]:
        """The words with every flag in its one spelling; raises as `read`."""
        spelt: list[str] = []
        for place, word in enumerate(words):
            if word == "--":
                return [*spelt, *words[place:]]
            if word == "-h":
                word = "--help"
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                word = self._flag(_underscored(name).removeprefix("--")) + equals + value
            spelt.append(word)
        return spelt

    def _flag(self, name: str) -> str:
        if name in ("help", "help_all"):
            raise HelpAsked(self.help_text(everything=name == "help_all"))
        if name not in self._spellings:
            raise ValueError(self._unknown(name))
        return self._spellings[name]

    def _unknown(self, name: str) -> str:
        """What to write in place of a flag that there is not."""
        if name in RENAMED:
            wanted = re.findall(r"--(\w+)", RENAMED[name])
            if all(flag in self._spellings for flag in wanted):
                return f"there is no --{name} here: {RENAMED[name]}."
        near = difflib.get_close_matches(name, self._spellings, n=3, cutoff=0.7)
        near += [flag for flag in self._spellings if (len(name) > 3 and name in flag) or name in flag.split("_")]
        flags = list(dict.fromkeys(self._spellings[flag] for flag in near))[:3]
        remedy = f"is it {' or '.join(flags)}?" if flags else "see --help and --help_all."
        return f"there is no flag --{name}: {remedy}"

    def error(self, message: str) -> NoReturn:
        """Raise argparse's own complaint as a `ValueError` of one sentence."""
        message = message.removeprefix("argument ")
        required = "the following arguments are required: "
        if message.startswith(required):
            raise ValueError(f"Expected {message.removeprefix(required)}, got none: see --help.")
        if message.startswith("unrecognized arguments: "):
            raise ValueError(f"Expected no {message.removeprefix('unrecognized arguments: ')!r}: see --help.")
        raise ValueError(message if message.endswith((".", "?")) else f"{message}.")

    def recipe_values(self, path: Path) -> dict[str, Any]:
        """What a JSON recipe says, by the names of flags, each value as the command line would give it.

        Raises:
            ValueError: no such file, no JSON object, an unknown name, or a value that its flag does not take.
        """
        if not path.is_file():
            raise ValueError(missing_path(path, "a recipe"))
        try:
            recipe = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected JSON in {path}, which is none: {error}.") from error
        if not isinstance(recipe, dict):
            raise ValueError(f"Expected names and values in {path} ({{...}}), got {type(recipe).__name__}.")
        values = {}
        for name, value in recipe.items():
            flag = self._spellings.get(name.replace("-", "_"))
            if flag is None:
                raise ValueError(f"{path.name} says {name}, which {self.prog} does not know: {self._unknown(name)}")
            action = self._by_name[flag.removeprefix("--")]
            try:
                values[action.dest] = checked_value(action, value, self._kinds.get(action.dest, ()))
            except ValueError as error:
                shown = MASK if name.endswith("token") else value
                raise ValueError(f"{path.name} says {json.dumps({name: shown})}: {error}.") from error
        return values

    def help_text(self, *, everything: bool = False) -> str:
        """What there is to set: the usual flags, or all of them."""
        formatter = _Help(self.prog, everything=everything)
        formatter.add_text(self.description)
        for title, actions in [*self._shown.items(), (OTHERS, self._rare if everything else [])]:
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        more = "" if everything or not self._rare else "--help_all lists the other flags, "
        formatter.add_text(f"[Brackets] hold defaults. {more}--debug shows the traceback of an error.")
        return formatter.format_help().rstrip()


class _Help(RawDescriptionHelpFormatter):
    """At most `WIDTH` columns; the first sentence of each help, unless everything is asked for."""

    def __init__(self, prog: str, *, everything: bool = True) -> None:
        super().__init__(prog, max_help_position=COLUMN, width=WIDTH)
        self._everything = everything

    def _format_args(self, action: Action, default_metavar: str) -> str:
        if action.nargs == "+" and action.option_strings:
            return f"{action.metavar or default_metavar} ..."
        if action.const is True:
            return ""
        return super()._format_args(action, default_metavar)

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if not self._everything:
            # The second half explains, unless it is the second choice.
            text = re.split(r"\. " if action.choices else r"[.;] ", text.strip())[0].rstrip(".")
        if action.option_strings and action.default not in (None, False, SUPPRESS, "") and action.default != []:
            text = f"{text.rstrip('.')} [%(default)s]"
        return text


def add_computing(parser: Parser, *, section: str) -> None:
    """Add --device, --dtype and --threads, as programs have them that transcribe."""
    parser.add_argument("--device", default="auto", section=section, help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto", section=section,
        help="auto: float16 on a GPU, else float32",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, section=section, help="of the CPU; 0: as torch has it")


def parse(
    kinds: Sequence[type],
    arguments: Sequence[str] | None,
    *,
    program: str,
    description: str,
    sections: Mapping[str, Sequence[str]] = SECTIONS,
) -> tuple[Any, ...]:
    """The arguments of a program with dataclasses: flags over what JSON recipes say over defaults.

    Args:
        kinds: dataclasses, whose fields are the flags.
        arguments: words of the command line; those before the first flag are recipes, the later ones over the earlier.
        program: as it is called, such as "distil-whisper train".
        description: for `--help`.
        sections: which flags `--help` shows.

    Raises:
        HelpAsked: with the text.
        ValueError: words or recipes that cannot be used, or a value that a dataclass refuses.
    """
    parser = Parser(program, description, kinds=kinds, sections=sections)
    recipes, words = split_recipes(sys.argv[1:] if arguments is None else arguments)
    words = parser.spell(words)
    for path in recipes:
        parser.set_defaults(**parser.recipe_values(path))
    *parsed, rest = parser.parse_args_into_dataclasses(
        args=words, look_for_args_file=False, return_remaining_strings=True
    )
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return tuple(parsed)


def split_recipes(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The recipes before the first flag, and all other words.

    Raises:
        ValueError: a word before the first flag that does not end in .json.
    """
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    for word in words[:first]:
        if not word.endswith(".json"):
            raise ValueError(f"Expected recipes (.json) or flags, got {word!r}: see --help.")
    return [Path(word) for word in words[:first]], list(words[first:])


def _underscored(flag: str) -> str:
    return "--" + flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else flag
