"""One dialect for all programs: spellings, help, recipes, and what a mistake looks like."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distil_whisper_hf import cli
from distil_whisper_hf.commands import baseline, train
from distil_whisper_hf.commands.command_line import SECTIONS, WIDTH, Parser, parse
from distil_whisper_hf.commands.mistakes import Failed, HelpAsked, program
from distil_whisper_hf.commands.output_folders import check_disk_space, check_output_dir
from distil_whisper_hf.commands.stock_flags import RENAMED
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments, SpeechTrainingArguments

PROGRAMS = {
    "train": (train.RunArguments, train.DataArguments, train.ExpertArguments, DistilWhisperTrainingArguments),
    "baseline": (baseline.RunArguments, baseline.DataArguments, baseline.BaselineArguments, SpeechTrainingArguments),
}
# Those of `evaluate` and `curve` have fields of their own.
RECIPES = [
    path
    for path in sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.json"))
    if not path.name.startswith(("evaluate", "curve"))
]


@dataclass
class Settings:
    """Few fields of every sort."""

    data: list[str] = field(default_factory=list, metadata={"help": "Sources."})
    learning_rate: float = field(default=0.1, metadata={"help": "Rate. The second sentence."})
    max_steps: int = field(default=3, metadata={"help": "Steps."})
    test_limit: int | None = field(default=None, metadata={"help": "Clips."})
    method: str = field(default="full", metadata={"help": "Which.", "choices": ("full", "lora")})
    resume: bool = field(default=False, metadata={"help": "Go on."})
    model: str | None = field(default=None, metadata={"help": "A Whisper."})


def read(*words: str, kinds=(Settings,)) -> Settings:
    (settings,) = parse(kinds, words, program="distil-whisper test", description="What it does.")
    return settings


def parser_of(name: str) -> Parser:
    return Parser(f"distil-whisper {name}", "Doc.", kinds=PROGRAMS[name], sections=SECTIONS)


class TestSpellings:
    """What a flag may look like."""

    @pytest.mark.parametrize(
        "words",
        [("--learning_rate", "1"), ("--learning-rate", "1"), ("--learning-rate=1",), ("--learning_rate=1",)],
    )
    def test_hyphens_are_underscores(self, words):
        """Silent: a flag that one program takes and the next one does not."""
        assert read(*words, "--test-limit=4", "--resume") == Settings(learning_rate=1.0, test_limit=4, resume=True)

    def test_values_keep_their_hyphens(self):
        """Silent: folders whose names are changed on the way."""
        assert read("--data", "a-b", "c--d", "--model=x-y").data == ["a-b", "c--d"]
        assert read("--model=x-y=--z").model == "x-y=--z"

    def test_other_spellings_are_taken_and_not_listed(self):
        """Silent: commands in people's notes that stop working."""
        parser = Parser("distil-whisper test", "Doc.")
        parser.add_argument("--output_dir", "--output", "--out-put", required=True, help="folder")
        for word in ("--output_dir", "--output-dir", "--output", "--out-put", "--out_put"):
            assert parser.read([word, "x"]).output_dir == "x"
        for everything in (False, True):
            assert re.findall(r"--out\S*", parser.help_text(everything=everything)) == ["--output_dir"]
        with pytest.raises(ValueError, match=r"Expected --output_dir, got none"):
            parser.read([])

    def test_nothing_is_guessed_from_a_beginning(self):
        """Silent: an abbreviation that means another flag once there is one."""
        with pytest.raises(ValueError, match=r"there is no flag --learning: is it --learning_rate\?"):
            read("--learning", "1")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--learning_rat", "1"], "is it --learning_rate?"),
            (["--limit", "1"], "is it --test_limit?"),
            (["--xyzzy"], "see --help and --help_all"),
            (["-o"], "Expected no '-o'"),
            (["--test_limit", "many"], "--test_limit: invalid int value: 'many'."),
            (["--data"], "--data: expected at least one argument."),
            (["--method", "all"], "'full', 'lora'"),
            (["stray", "--data", "x"], "Expected recipes (.json) or flags, got 'stray'"),
            (["--resume", "yes", "stray"], "Expected no 'stray'"),
        ],
    )
    def test_mistakes_are_one_sentence(self, words, message):
        """Silent: two hundred lines of usage with the fault in the last one."""
        with pytest.raises(ValueError) as caught:
            read(*words)
        assert message in str(caught.value) and "\n" not in str(caught.value)


class TestOldNames:
    """Flags that transformers had."""

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("--evaluation_strategy", "--eval_strategy"),
            ("--warmup-ratio=0.1", "--warmup_steps"),
            ("--group_by_length", "--train_sampling_strategy group_by_length"),
            ("--overwrite_output_dir", "--resume"),
            ("--no_cuda", "--use_cpu"),
            ("--per_gpu_train_batch_size", "--per_device_train_batch_size"),
            ("--fp16_backend", "--bf16"),
            ("--model_name_or_path", "--model"),
        ],
    )
    def test_they_say_what_to_write(self, old, new):
        """Silent: a recipe of last year that ends in `unrecognized arguments`."""
        with pytest.raises(ValueError) as caught:
            parser_of("train").spell([old])
        assert new in str(caught.value) and old.split("=")[0].replace("-", "_")[2:] in str(caught.value)

    def test_every_replacement_is_a_flag(self):
        """Silent: advice that leads to the next error."""
        parser = parser_of("train")
        for name, advice in RENAMED.items():
            for flag in re.findall(r"--\w+", advice):
                assert parser.spell([flag]) == [flag], name

    def test_a_program_without_the_replacement_does_not_name_it(self):
        """Silent: advice that leads to the next error, in a program with fewer flags."""
        with pytest.raises(ValueError, match=r"there is no flag --no_cuda: see --help"):
            read("--no_cuda")


class TestHelp:
    """What `--help` shows."""

    @pytest.mark.parametrize("name", PROGRAMS)
    def test_it_fits_two_screens(self, name):
        """Silent: a help that nobody reads, or one in which the flags of every day are missing."""
        with pytest.raises(HelpAsked) as asked:
            parse(PROGRAMS[name], ["--help"], program=f"distil-whisper {name}", description="Doc.\n\nExample.")
        lines = str(asked.value).splitlines()
        assert len(lines) <= 60 and max(map(len, lines)) <= WIDTH
        for flag in ("--model", "--data", "--language", "--output_dir", "--test_data", "--test_limit"):
            assert sum(line.startswith(f"  {flag} ") for line in lines) == 1
        assert "deepspeed" not in str(asked.value) and "run:" in lines

    @pytest.mark.parametrize("word", ["--help-all", "--help_all"])
    def test_everything_can_be_listed(self, word):
        """Silent: flags that work and that no list names."""
        with pytest.raises(HelpAsked) as asked:
            parser_of("train").read([word])
        flags = set(re.findall(r"^  (--\w+)", str(asked.value), flags=re.MULTILINE))
        fields = {f"--{name}" for kind in PROGRAMS["train"] for name, f in kind.__dataclass_fields__.items() if f.init}
        assert fields <= flags

    def test_only_the_first_sentence_is_shown(self):
        """Silent: a short help that grows with every explanation."""
        parser = Parser("test", "Doc.", kinds=[Settings], sections={"run": ("learning_rate",)})
        assert "second sentence" not in parser.help_text()
        assert "second sentence" in parser.help_text(everything=True)
        assert "--method" not in parser.help_text() and "--method" in parser.help_text(everything=True)

    def test_help_comes_before_recipes_and_required_flags(self, tmp_path):
        """Silent: a help that is refused because the command is not complete."""
        with pytest.raises(HelpAsked):
            read(str(tmp_path / "missing.json"), "--help")

    @pytest.mark.parametrize("name", ["convert", "push", "release"])
    def test_programs_print_it_and_succeed(self, name, capsys):
        """Silent: help as a failure, for scripts that look at the status."""
        assert cli.main([name, "--help"]) == 0
        printed = capsys.readouterr()
        assert f"distil-whisper {name} " in printed.out and len(printed.out.splitlines()) <= 60 and not printed.err
        assert cli.main(["help", name]) == 0
        assert capsys.readouterr().out == printed.out


class TestRecipes:
    """JSON before the first flag."""

    def recipe(self, folder: Path, name: str = "recipe.json", **values) -> str:
        (folder / name).write_text(json.dumps(values))
        return str(folder / name)

    def test_flags_over_later_recipes_over_earlier_ones_over_defaults(self, tmp_path):
        """Silent: a setting of the command line that a recipe undoes."""
        one = self.recipe(tmp_path, "one.json", learning_rate=1, max_steps=1, method="lora")
        two = self.recipe(tmp_path, "two.json", learning_rate=2, max_steps=2)
        found = read(one, two, "--learning-rate", "3")
        assert found == Settings(learning_rate=3.0, max_steps=2, method="lora")

    def test_values_are_what_flags_give(self, tmp_path):
        """Silent: a name taken for a list of letters, or a number that stays a text."""
        found = read(self.recipe(tmp_path, **{"data": "folder", "max-steps": "4", "resume": "no", "test_limit": None}))
        assert found == Settings(data=["folder"], max_steps=4)

    def test_tables_and_switches_arrive_as_they_are(self, tmp_path):
        """Silent: `{"no_x": true}` that turns x on, or a table that arrives as its text."""
        values = {"lr_scheduler_kwargs": {"power": 2}, "report_to": ["none"], "label_names": ["labels"], "bf16": False}
        path = self.recipe(tmp_path, no_gate_budget_counts_padding=True, output_dir=str(tmp_path), **values)
        *_, training = parse(PROGRAMS["train"], [path, "--use_cpu"], program="test", description="")
        assert training.lr_scheduler_kwargs == {"power": 2} and training.label_names == ["labels"]
        assert training.report_to == [] and training.bf16 is False
        assert training.gate_budget_counts_padding is False

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_every_recipe_parses(self, path, tmp_path):
        """Silent: a recipe with a value that its flag does not take."""
        recipe = json.loads(path.read_text())
        kinds = PROGRAMS["baseline" if "method" in recipe else "train"]
        words = [str(path), "--output-dir", str(tmp_path), "--use-cpu", "--learning-rate=0.5"]
        parsed = parse(kinds, words, program="test", description="")
        values = {name: value for part in parsed for name, value in vars(part).items()}
        assert {name: values[name] for name in recipe} == {**recipe, "learning_rate": 0.5}

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"resume": 2}, '{"resume": 2}'),
            ({"learning_rat": 1}, "recipe.json says learning_rat, which distil-whisper test does not know"),
            ({"method": "al"}, "expected one of full, lora"),
            ({"max_steps": 2.5}, '{"max_steps": 2.5}'),
            ({"max_steps": True}, '{"max_steps": true}'),
            ({"max_steps": None}, "got null"),
            ({"model": ["a", "b"]}, "expected a single value"),
        ],
    )
    def test_wrong_values_are_refused(self, values, message, tmp_path):
        """Silent: a choice that does not exist and is the default in effect."""
        with pytest.raises(ValueError) as caught:
            read(self.recipe(tmp_path, **values))
        assert message in str(caught.value) and "\n" not in str(caught.value)

    def test_files_that_are_no_recipes_are_named(self, tmp_path):
        """Silent: a misspelt recipe, and a run on defaults."""
        path = self.recipe(tmp_path, "paper_js.json")
        with pytest.raises(ValueError, match=r"does not exist: is it '.*paper_js\.json'\?"):
            read(path.replace("_js", "-js"))
        Path(path).write_text("{")
        with pytest.raises(ValueError, match="Expected JSON in"):
            read(path)
        Path(path).write_text("[1]")
        with pytest.raises(ValueError, match="got list"):
            read(path)

    def test_an_args_file_beside_the_program_is_not_read(self, tmp_path, monkeypatch):
        """Silent: flags that nobody wrote, from a file that happens to lie there."""
        (tmp_path / "program.args").write_text("--max_steps 9")
        monkeypatch.setattr("sys.argv", [str(tmp_path / "program.py")])
        assert read().max_steps == 3


class TestMistakes:
    """A sentence, a status, and a traceback only for who asks."""

    def run(self, error: BaseException | None, *words: str) -> int:
        @program("distil-whisper test")
        def main(arguments):
            assert "--debug" not in arguments[:1]
            if error is not None:
                raise error
            return 0

        return main(list(words))

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ValueError("Expected this, got that"), "Expected this, got that."),
            (KeyError("no such expert"), "no such expert."),
            (FileNotFoundError(2, "No such file or directory", "a.csv"), "No such file or directory: 'a.csv'."),
            (OSError("x is no model\nIf this is private, log in"), "x is no model."),
            (ValueError("\n  Validation error:\n    ValueError: of this\n"), "Validation error: ValueError: of this."),
            (
                ModuleNotFoundError("No module named 'peft'", name="peft.tuners"),
                'pip install "distil_whisper_hf[train]"',
            ),
            (ModuleNotFoundError("No xyz", name="xyz"), "pip install xyz"),
        ],
    )
    def test_input_gives_a_sentence_and_status_2(self, error, said, capsys, monkeypatch):
        """Silent: a mistake that passes for success, or that is buried in a traceback."""
        monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch>=2", "peft<1; extra == 'train'"])
        assert self.run(error) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("distil-whisper test: ") and said in printed and printed.count("\n") == 1

    def test_other_ends(self, capsys):
        """Silent: a failed push, or a stopped run, with the status of a success."""
        assert self.run(None) == 0
        assert self.run(Failed("the push failed")) == 1
        assert self.run(KeyboardInterrupt()) == 130
        assert capsys.readouterr().err.count("\n") == 2

    def test_faults_of_the_package_keep_their_traceback(self):
        """Silent: a bug that is reported as a mistake of its finder."""
        for error in (TypeError("x"), ZeroDivisionError(), ImportError("x", name="distil_whisper_hf.data")):
            with pytest.raises(type(error)):
                self.run(error)

    def test_tracebacks_are_to_be_had(self, monkeypatch):
        """Silent: a sentence as the end of the search."""
        with pytest.raises(ValueError):
            self.run(ValueError("x"), "--debug")
        assert self.run(ValueError("x"), "--x", "--debug", "underflow_overflow") == 2
        monkeypatch.setenv("DISTIL_WHISPER_DEBUG", "1")
        with pytest.raises(ValueError):
            self.run(ValueError("x"))

    def test_errors_of_others_say_how_to_see_more(self, capsys):
        """Silent: `max_steps` as the whole message of a KeyError in a library."""

        @program("distil-whisper test")
        def main(arguments):
            return json.loads("{")

        assert main([]) == 2
        assert "--debug shows where" in capsys.readouterr().err


class TestOutputFolders:
    """What is known before a run."""

    def test_other_content_is_refused(self, tmp_path):
        """Silent: experts beside a whole model, of which the next program opens the wrong one."""
        check_output_dir(tmp_path / "not" / "yet", writes="experts")
        (tmp_path / "expert.ca.safetensors").touch()
        check_output_dir(tmp_path, writes="experts")
        check_output_dir(tmp_path)
        with pytest.raises(ValueError, match=r"for a LoRA adapter .* holds experts \(expert\.ca\.safetensors\)"):
            check_output_dir(tmp_path, writes="adapter")
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(ValueError, match="holds a whole model"):
            check_output_dir(tmp_path, writes="experts")

    def test_what_cannot_be_written_is_refused(self, tmp_path, monkeypatch):
        """Silent: hours of training that end at the first checkpoint."""
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="is a file"):
            check_output_dir(tmp_path / "file" / "run")
        with pytest.raises(FileExistsError, match="there already"):
            check_output_dir(tmp_path, new=True)
        asked = []
        monkeypatch.setattr("os.access", lambda path, mode: asked.append(path))
        with pytest.raises(PermissionError, match="Expected to write in"):
            check_output_dir(tmp_path / "run" / "one")
        assert asked == [tmp_path]

    def test_a_full_disk_is_seen(self, tmp_path):
        """Silent: a checkpoint cut off in the middle."""
        check_disk_space(tmp_path / "run", 1, "checkpoints")
        with pytest.raises(ValueError, match=r"GB free for checkpoints in '.*run', there are \d"):
            check_disk_space(tmp_path / "run", 1 << 60, "checkpoints")
