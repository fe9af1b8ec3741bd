"""The package's layout, checked on its source: who may import whom, and what no file may contain.

Every rule is a function from source text to a list of faults. Each is run on the package's files, and on snippets that
break it, so that a rule which no longer sees anything cannot pass unnoticed.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

ROOT = Path(__file__).parents[1]
NAME = "distil_whisper_hf"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
# What may be longer, with its reason: "checkpoints" for a file, "checkpoints::read" or "hub::Class.method" for a
# function. An entry that is no longer needed is a fault.
LONGER: dict[str, str] = {}

# The core: flat files, all that a model opened from the Hub as remote code brings along. Each may import these other
# core files, and nothing else of ours; what publishes is reached by its absolute name, in a `try`, when it is called.
CORE_ARROW: dict[str, set[str]] = {
    "languages": set(),
    "gates": set(),
    "segments": set(),
    "transformers_contract": set(),
    "audio_headers": set(),
    "cpu_precision": set(),
    "ffmpeg_program": set(),
    "audio_files": {"audio_headers", "ffmpeg_program"},
    "audio_input": {"audio_files"},
    "tokenization_distil_whisper": {"languages"},
    "places": set(),
    "expert_form": set(),
    "untrusted_files": {"places"},
    "original_release": {"languages", "untrusted_files"},
    "configuration_distil_whisper": {"expert_form", "languages", "original_release", "untrusted_files"},
    "compact_experts": {"gates"},
    "routing": {"compact_experts"},
    "language_experts": {"compact_experts", "gates", "routing"},
    "adapted_attention": {"compact_experts", "transformers_contract"},
    "layers_distil_whisper": {
        "adapted_attention",
        "compact_experts",
        "configuration_distil_whisper",
        "expert_form",
        "language_experts",
        "routing",
    },
    "base_fingerprint": {"untrusted_files"},
    "whole_checkpoint": {"configuration_distil_whisper", "untrusted_files"},
    "expert_header": {"configuration_distil_whisper", "expert_form", "untrusted_files"},
    "compression": {
        "compact_experts",
        "configuration_distil_whisper",
        "expert_form",
        "language_experts",
        "layers_distil_whisper",
    },
    "checkpoints": {
        "base_fingerprint",
        "configuration_distil_whisper",
        "expert_form",
        "expert_header",
        "languages",
        "original_release",
        "untrusted_files",
        "whole_checkpoint",
    },
    "expert_verbs": {
        "base_fingerprint",
        "checkpoints",
        "compact_experts",
        "compression",
        "configuration_distil_whisper",
        "hub_verbs",
        "language_experts",
        "languages",
        "layers_distil_whisper",
        "expert_form",
        "routing",
        "untrusted_files",
    },
    "hub_verbs": set(),
    "generation_distil_whisper": {"configuration_distil_whisper", "languages", "routing"},
    "pipeline_distil_whisper": {"audio_input", "languages", "segments", "transformers_contract"},
    "pretrained": {
        "checkpoints",
        "configuration_distil_whisper",
        "expert_verbs",
        "generation_distil_whisper",
        "original_release",
        "untrusted_files",
        "whole_checkpoint",
    },
    "modeling_distil_whisper": {
        "compact_experts",
        "configuration_distil_whisper",
        "expert_verbs",
        "gates",
        "generation_distil_whisper",
        "language_experts",
        "layers_distil_whisper",
        "pipeline_distil_whisper",
        "pretrained",
        "routing",
        "transformers_contract",
    },
}
# The tokenizer is the launcher's, precision that of programs: no model needs them.
NOT_SHIPPED = {"cpu_precision", "tokenization_distil_whisper"}
CORE_LIBRARIES = {"huggingface_hub", "numpy", "safetensors", "torch", "transformers"}
FEWER_LIBRARIES = {
    "compact_experts": {"torch"},
    "gates": {"torch"},
    "language_experts": {"torch"},
    "routing": {"torch"},
    "languages": {"transformers"},
    "segments": set(),
}
# Libraries that a core file may import inside its functions only.
LAZY_LIBRARIES = {"audio_files": {"soundfile"}, "audio_input": {"soxr"}, "languages": {"langcodes"}}
# Transformers requires these in a range of its own, which ours could only contradict.
THROUGH_TRANSFORMERS = {"tokenizers"}
# FastAPI is made of it.
THROUGH_FASTAPI = {"starlette"}

# The rooms, each with the rooms that it may import beside itself; "core" is the flat files above.
ROOM_ARROW: dict[str, set[str]] = {
    "markdown": set(),
    "moved": set(),
    "secret_tokens": set(),
    "publishing": {"core", "markdown", "secret_tokens"},
    "data": {"core"},
    "transcription": {"core"},
    "training": {"core", "data", "publishing", "secret_tokens"},
    "evaluation.scores": {"core"},
    "evaluation.statistics": {"core", "evaluation.scores"},
    "evaluation.systems": {"core", "data"},
    "evaluation.recipes": {"data", "evaluation.scores", "evaluation.statistics", "evaluation.systems"},
    "evaluation.evaluated_clips": {"data", "evaluation.recipes"},
    "evaluation.report": {
        "core",
        "data",
        "evaluation.recipes",
        "evaluation.scores",
        "evaluation.statistics",
        "evaluation.systems",
        "markdown",
    },
    "evaluation": set(),
    "export": {"core", "markdown"},
    "commands": {
        "__init__",
        "core",
        "data",
        "evaluation.evaluated_clips",
        "evaluation.recipes",
        "evaluation.report",
        "evaluation.scores",
        "evaluation.statistics",
        "evaluation.systems",
        "export",
        "markdown",
        "publishing",
        "secret_tokens",
        "training",
        "transcription",
    },
    "cli": {"__init__", "commands"},
    "launch": {"core", "training"},
    "__init__": {"core", "moved"},
}
# The order inside a room, for the files named here; cycles are forbidden to all.
SIBLING_ARROW: dict[str, dict[str, set[str]]] = {
    "training": {
        "arguments": {"losses"},
        "resuming": set(),
        "losses": set(),
        "collator": {"losses"},
        "teacher": {"features", "vocabulary"},
        "loaders": {"arguments", "datasets"},
        "speech_trainer": {"arguments", "collator", "datasets", "loaders", "losses", "resuming"},
        "trainer": {
            "arguments", "collator", "hub_pushes", "losses", "schedules", "speech_trainer", "teacher", "teacher_cache",
            "top_tokens",
        },
        "top_tokens": {"losses"},
        "teacher_cache": {"losses", "teacher", "top_tokens"},
        "expert_arguments": {"teacher", "teacher_cache"},
        "stock_script": {"arguments", "expert_arguments", "features", "trainer"},
    },
    "transcription": {
        "options": set(),
        "results": set(),
        "words": set(),
        "sampling": set(),
        "window_segments": set(),
        "recordings": {"options"},
        "speech_only": {"recordings"},
        "subtitles": {"results"},
        "formats": {"results", "subtitles"},
        "opening": set(),
        "decoding": {"recordings", "sampling"},
        "alignment": {"decoding", "results", "words"},
        "engine": {"decoding", "recordings", "results", "session"},
        "server_metrics": set(),
        "server_requests": {"options"},
        "server_responses": {"formats", "results", "server_requests"},
    },
    "data": {
        "rejections": set(),
        "tables": set(),
        "clips": {"audio"},
        "audio": set(),
        "text": {"rejections"},
        "labels": set(),
        "atomic_files": set(),
        "columns": {"audio", "clips", "rejections"},
        "manifests": {"audio", "clips", "columns", "rejections", "tables"},
        "common_voice": {"clips", "columns", "manifests", "rejections", "tables"},
        "screening": {"atomic_files", "audio", "clips", "labels", "rejections", "text"},
        "sources": {"clips", "columns", "common_voice", "hub_datasets", "manifests", "rejections", "tables"},
    },
}  # fmt: skip

# A slash that begins a path of two names or more, or a drive letter: only one machine has it.
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'`(=:])(?:/\w[\w.-]*/\w|[A-Za-z]:\\{1,2}\w)""")
REQUIREMENT = re.compile(r"^([A-Za-z][\w.-]*)\s*(?:\[.*\])?\s*[<>=!~]=?\s*\d")


@dataclass
class Import:
    """One imported module: dotted inside the package (`training.losses`), the top name of any other library."""

    line: int
    target: str
    ours: bool
    relative: bool
    in_function: bool
    in_try: bool
    bare: bool  # `from . import x`


def imports_of(module: str, source: str) -> list[Import]:
    """Return what `module` imports (`losses` of training is "training.losses"), at every depth of its source."""
    return list(_walk_imports(module.split(".")[:-1], ast.parse(source)))


def _walk_imports(
    package: list[str], node: ast.AST, *, in_function: bool = False, in_try: bool = False
) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _resolve(package, node, in_function=in_function, in_try=in_try)
    in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    in_try = in_try or isinstance(node, ast.Try)
    for child in ast.iter_child_nodes(node):
        yield from _walk_imports(package, child, in_function=in_function, in_try=in_try)


def _resolve(
    package: list[str], node: ast.Import | ast.ImportFrom, *, in_function: bool, in_try: bool
) -> Iterator[Import]:
    names = [alias.name for alias in node.names]
    level = node.level if isinstance(node, ast.ImportFrom) else 0
    if isinstance(node, ast.Import):
        dotted = names
    elif level:
        base = package[: len(package) - level + 1] + (node.module.split(".") if node.module else [])
        # From a package's folder, each name may be one of its files.
        dotted = [".".join([NAME, *base, n]) for n in names] if _is_folder(base) else [".".join([NAME, *base])]
    else:
        base = (node.module or "").split(".")
        dotted = [".".join([*base, n]) for n in names] if base[0] == NAME and _is_folder(base[1:]) else [node.module]
    for target in dotted:
        top, _, rest = target.partition(".")
        bare = bool(level) and node.module is None
        yield Import(node.lineno, rest if top == NAME else top, top == NAME, bool(level), in_function, in_try, bare)


def _is_folder(base: list[str]) -> bool:
    return not base or (ROOT / NAME).joinpath(*base).is_dir()


def room_of(module: str) -> str:
    """The room that a module of the package is in: the longest name of `ROOM_ARROW` that it begins with, or "core"."""
    if module in CORE_ARROW:
        return "core"
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROOM_ARROW), module)


def arrow_faults(module: str, source: str) -> list[str]:
    """Return the imports inside the package that `module` may not have."""
    faults = []
    folder, _, stem = module.rpartition(".")
    room = room_of(module)
    for found in imports_of(module, source):
        if not found.ours or found.target == "__version__":
            continue
        other_folder, _, other = found.target.rpartition(".")
        if module in CORE_ARROW:
            if module == "hub_verbs" and room_of(found.target) == "publishing":
                if not found.in_try or found.relative:
                    faults.append(f"{module}:{found.line}: publishing is reached by its absolute name, in a `try`")
                continue
            if not found.relative or found.bare:
                faults.append(f"{module}:{found.line}: core files import each other as `from .file import name`")
            if found.target not in CORE_ARROW[module]:
                faults.append(f"{module}:{found.line}: may not import {found.target}")
        elif room not in ROOM_ARROW:
            faults.append(f"{module}: in none of the rooms")
        elif room_of(found.target) not in ROOM_ARROW[room] | {room}:
            faults.append(f"{module}:{found.line}: {room} may not import {room_of(found.target)}")
        elif folder == other_folder and folder in SIBLING_ARROW:
            arrow = SIBLING_ARROW[folder]
            if stem in arrow and other not in arrow[stem]:
                faults.append(f"{module}:{found.line}: may not import {found.target}")
    return faults


def library_faults(module: str, source: str, declared: set[str]) -> list[str]:
    """Return the imports from outside the package that `module` may not have; `declared` is what setup.py lists."""
    faults = []
    for found in imports_of(module, source):
        if found.ours or found.target in sys.stdlib_module_names:
            continue
        allowed, where = declared, "not declared in setup.py"
        if module in CORE_ARROW:
            allowed = FEWER_LIBRARIES.get(module, CORE_LIBRARIES)
            where = "not a library of this core file"
            if found.target in LAZY_LIBRARIES.get(module, ()):
                if found.in_function:
                    continue
                where = "imported inside functions only"
        if found.target not in allowed:
            faults.append(f"{module}:{found.line}: {found.target}: {where}")
    return faults


def declared_libraries(setup_source: str) -> set[str]:
    """Return the import names of all requirements, of the core and of every extra."""
    strings = [n.value for n in ast.walk(ast.parse(setup_source)) if isinstance(n, ast.Constant)]
    matches = (REQUIREMENT.match(s) for s in strings if isinstance(s, str))
    return {match[1].replace("-", "_") for match in matches if match}


def cycle_faults(sources: dict[str, str]) -> list[str]:
    """Return the cycle of imports among `sources` (source text by module), if there is one."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        # Reading the version closes no cycle where it stands above the imports; where it does not, the import fails.
        targets = {i.target for i in imports_of(module, source) if i.ours and i.target != "__version__"}
        # A name that is no file is found in the folder's __init__.
        files = {t if t in sources else ".".join([*t.split(".")[:-1], "__init__"]) for t in targets}
        graph[module] = {f for f in files if f in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["a cycle of imports: " + " → ".join(error.args[1])]
    return []


def init_faults(module: str, source: str) -> list[str]:
    """Return the statements of the root's `__init__` that neither re-export nor register, of another's all but its
    docstring."""
    faults = []
    for index, node in enumerate(ast.parse(source).body):
        if module != "__init__":
            if index > 0 or not isinstance(node, ast.Expr):
                faults.append(f"{module}:{node.lineno}: an __init__ of a room is empty or one docstring")
            continue
        match node:
            case ast.Import() | ast.ImportFrom():
                continue
            case ast.Assign(targets=[ast.Name(id="__all__" | "__version__")]):
                continue
            case ast.Expr(value=ast.Constant(value=str())) if index == 0:
                continue
            case ast.Expr(value=ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called))) if re.match(
                "register|install", called
            ):
                continue
        faults.append(f"{module}:{node.lineno}: an __init__ re-exports and registers, nothing else")
    return faults


def content_faults(module: str, source: str) -> list[str]:
    """Return prints, asserts, exits, unsorted `__all__` and absolute paths."""
    tree = ast.parse(source)
    faults = []
    for number, line in enumerate(source.splitlines(), start=1):
        if ABSOLUTE_PATH.search(line):
            faults.append(f"{module}:{number}: an absolute path")
    # The line that makes a file a program may end the process; nothing that is imported may.
    guards = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'"]
    guarded = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        match node:
            case ast.Assert():
                faults.append(f"{module}:{node.lineno}: assert")
            # Programs print: it is what they are for.
            case ast.Call(func=ast.Name(id="print")) if not module.startswith("commands."):
                faults.append(f"{module}:{node.lineno}: print")
            case ast.Name(id="exit" | "quit" | "SystemExit") | ast.Attribute(attr="exit" | "_exit"):
                if id(node) not in guarded:
                    faults.append(f"{module}:{node.lineno}: exit")
            case ast.ImportFrom(module="sys" | "os", names=names) if {"exit", "_exit"} & {a.name for a in names}:
                faults.append(f"{module}:{node.lineno}: exit")
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names = ast.literal_eval(value)
                if list(names) != sorted(set(names)):
                    faults.append(f"{module}:{node.lineno}: __all__ is not sorted: expected {sorted(set(names))}")
    return faults


def sizes(module: str, source: str) -> dict[str, int]:
    """Return the lines of the file and of each function in it, by the keys of `LONGER`."""
    found = {module: len(source.splitlines())}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    found[f"{module}::{name}"] = child.end_lineno - child.lineno + 1
                visit(child, f"{name}.")
            else:
                visit(child, prefix)

    visit(ast.parse(source), "")
    return found


def size_faults(module: str, source: str, longer: dict[str, str]) -> list[str]:
    """Return the file and the functions that are too long, and the entries of `longer` that need not be there."""
    faults = []
    found = sizes(module, source)
    for key, lines in found.items():
        limit = MAX_FUNCTION_LINES if "::" in key else MAX_FILE_LINES
        if lines > limit and key not in longer:
            faults.append(f"{key}: {lines} lines, at most {limit}")
        if lines <= limit and key in longer:
            faults.append(f"{key}: {lines} lines, so it needs no exception")
    missing = [key for key in longer if key.split("::")[0] == module and key not in found]
    return faults + [f"{key}: an exception for what does not exist" for key in missing]


def package_sources() -> dict[str, str]:
    """Return the source text of every module of the package, by its dotted name inside the package."""
    folder = ROOT / NAME
    files = sorted(folder.rglob("*.py"))
    return {".".join(f.relative_to(folder).with_suffix("").parts): f.read_text(encoding="utf-8") for f in files}


SOURCES = package_sources()
DECLARED = declared_libraries((ROOT / "setup.py").read_text(encoding="utf-8")) | THROUGH_TRANSFORMERS | THROUGH_FASTAPI


def all_faults(module: str, source: str) -> list[str]:
    """Return the faults of every rule that looks at one file."""
    faults = arrow_faults(module, source) + library_faults(module, source, DECLARED) + content_faults(module, source)
    faults += size_faults(module, source, LONGER)
    return faults + (init_faults(module, source) if module.rpartition(".")[2] == "__init__" else [])


@pytest.mark.parametrize("module", SOURCES)
def test_file_keeps_the_rules(module):
    """Prevents an import that breaks remote code, and code that ends or litters a user's process."""
    assert all_faults(module, SOURCES[module]) == []


def test_package_has_no_import_cycle():
    """Prevents a package that imports in one order and fails in another."""
    assert cycle_faults(SOURCES) == []


def test_remote_code_brings_the_core_and_nothing_else():
    """Prevents a model opened from the Hub from bringing along what publishes, trains or evaluates."""
    model = ROOT / NAME / "modeling_distil_whisper.py"
    brought = {Path(name).stem for name in get_relative_import_files(model)} | {model.stem}
    assert brought == CORE_ARROW.keys() - NOT_SHIPPED


def test_only_languages_knows_the_tables_of_languages():
    """Prevents a second rule for what a language is called."""
    tables = "transformers.models.whisper.tokenization_whisper"
    users = {module for module, source in SOURCES.items() if tables in source}
    assert users == {"languages"}


def test_every_room_has_its_arrow():
    """Prevents a new folder that may import anything, and an arrow that outlives its room."""
    rooms = {room_of(module) for module in SOURCES} - {"core"}
    assert rooms <= ROOM_ARROW.keys() and CORE_ARROW.keys() <= SOURCES.keys()
    assert ROOM_ARROW.keys() <= rooms | {"evaluation"}


def test_exceptions_name_existing_files():
    """Prevents an exception that outlives its file and silently covers a later one of the same name."""
    assert {key.split("::")[0] for key in LONGER} <= set(SOURCES)


def test_version_is_in_the_changelog():
    """Prevents a release whose changes nobody wrote down."""
    (version,) = re.findall(r'^__version__ = "(.+)"$', SOURCES["__init__"], flags=re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", changelog, flags=re.MULTILINE)


def test_declared_libraries_are_read():
    """Prevents an empty or over-full list of requirements from making the rule on libraries meaningless."""
    source = 'A = ["torch>=2.6,<2.15", "sox-r~=1.0"]\nsetup(name="not_one", version="1.0", e=["x[y]>=2"])'
    assert declared_libraries(source) == {"torch", "sox_r", "x"}
    assert CORE_LIBRARIES | {"soundfile", "soxr"} <= DECLARED


ALLOWED = {
    "core to core": ("modeling_distil_whisper", "from .language_experts import LanguageExperts"),
    "model to pipeline": ("modeling_distil_whisper", "from .pipeline_distil_whisper import install"),
    "lazy soundfile": ("audio_files", "def decode():\n    import soundfile"),
    "standard library": ("language_experts", "import math\nfrom dataclasses import dataclass\nimport torch"),
    "core from training": ("training.trainer", "from ..modeling_distil_whisper import X\nfrom .losses import y"),
    "core from transcription": ("transcription.decoding", "from ..routing import LoadedExperts"),
    "data from training": ("training.datasets", "from ..data.clips import Clip"),
    "data from evaluation": ("evaluation.systems.gates", "from ...data.audio import read_audio"),
    "version from the root": ("cli", "from . import __version__"),
    "all rooms from a command": (
        "commands.train", "from ..training import trainer\nfrom ..evaluation.scores.metrics import wer",
    ),
    "an unlisted sibling's own choice": ("training.callbacks", "from .trainer import Trainer"),
    "publishing, when a verb pushes": (
        "hub_verbs",
        f"def f():\n    try:\n        from {NAME}.publishing.push import p\n    except ImportError:\n        raise",
    ),
    "re-export and register": (
        "__init__",
        '"""Doc."""\nfrom .checkpoints import E\n__all__ = ["B", "a"]\n__version__ = "1"\nAuto.register("x", X)\n',
    ),
    "a program's last line": ("launch", "import sys\nif __name__ == '__main__':\n    sys.exit(main())"),
    "a program that prints": ("commands.train", "def main():\n    print(1)"),
    "a relative path": ("publishing.push", 'NAME = "model/expert.ca.safetensors"  # and/or https://example.org/a/b'),
}  # fmt: skip

FORBIDDEN = {
    "core by absolute name": ("modeling_distil_whisper", f"from {NAME}.checkpoints import x", "import each other as"),
    "core from the root": ("modeling_distil_whisper", "from . import checkpoints", "import each other as"),
    "experts know the configuration": ("language_experts", "from .configuration_distil_whisper import C", "may not"),
    "pipeline knows the model": ("pipeline_distil_whisper", "from .modeling_distil_whisper import M", "may not"),
    "core knows training": ("modeling_distil_whisper", "from .training.losses import kl", "may not import training"),
    "checkpoints know the model": ("checkpoints", "from .modeling_distil_whisper import M", "may not import"),
    "hidden in a function": ("checkpoints", "def f():\n    from .modeling_distil_whisper import M", "may not import"),
    "core knows publishing": ("checkpoints", "from .publishing.push import push", "may not import publishing"),
    "a verb brings publishing along": ("hub_verbs", "from .publishing.push import push", "in a `try`"),
    "training to evaluation": (
        "training.trainer", "from ..evaluation.scores.metrics import wer", "may not import evaluation",
    ),
    "absolute, too": ("training.data", f"from {NAME} import evaluation", "may not import evaluation"),
    "evaluation to training": ("evaluation.report.page", "from ... import training", "may not import training"),
    "folder to folder": ("training.__init__", "from ..evaluation.scores.metrics import wer", "may not import evaluat"),
    "data knows who uses it": ("data.sources", "from ..evaluation.recipes import R", "may not import evaluation"),
    "transcription knows its command": (
        "transcription.transcriber", "from ..commands.transcribe import main", "may not import commands",
    ),
    "writers know the model": ("transcription.formats", "from .decoding import WindowDecoder", "may not import"),
    "data knows training": ("data.corpus", "from ..training.datasets import D", "may not import training"),
    "scores know statistics": ("evaluation.scores.metrics", "from ..statistics.intervals import I", "may not import"),
    "systems know the report": ("evaluation.systems.gates", "from ..report.markdown import t", "may not import"),
    "publishing knows training": ("publishing.push", "from ..training.trainer import T", "may not import training"),
    "a program is imported": ("data.corpus", "from ..commands.runs import R", "may not import commands"),
    "a room without an arrow": ("elsewhere.file", "from ..checkpoints import x", "in none of the rooms"),
    "losses know the trainer": ("training.losses", "from .trainer import T", "may not import training.trainer"),
    "a clip knows its table": ("data.clips", "from .manifests import m", "may not import data.manifests"),
    "numpy in the experts": ("language_experts", "import numpy as np", "not a library of this core file"),
    "transformers in the experts": ("language_experts", "from transformers.x import y", "not a library of this core"),
    "scipy in the core": ("modeling_distil_whisper", "def f():\n    import scipy", "not a library of this core file"),
    "soundfile at the top": ("audio_files", "import soundfile", "imported inside functions only"),
    "undeclared library": ("training.data", "import torchaudio.transforms", "not declared in setup.py"),
    "print": ("checkpoints", "def f():\n    print(1)", "print"),
    "assert": ("checkpoints", "assert True", "assert"),
    "exit": ("checkpoints", "def f():\n    exit(1)", "exit"),
    "sys.exit": ("launch", "import sys\ndef main():\n    sys.exit(1)", "exit"),
    "from sys import exit": ("checkpoints", "from sys import exit as leave", "exit"),
    "raise SystemExit": ("cli", "def main():\n    raise SystemExit(2)", "exit"),
    "unsorted __all__": ("checkpoints", '__all__ = ["b", "a"]', "not sorted"),
    "repeated name": ("checkpoints", '__all__ = ["a", "a"]', "not sorted"),
    "absolute path": ("checkpoints", 'CACHE = "/home/someone/models"', "an absolute path"),
    "absolute path in a comment": ("checkpoints", "# see /srv/data/clips", "an absolute path"),
    "drive letter": ("checkpoints", r'CACHE = "C:\\models"', "an absolute path"),
    "function in an __init__": ("training.__init__", "def f():\n    pass", "one docstring"),
    "re-export of a room": ("training.__init__", "from .trainer import T", "one docstring"),
    "setting in an __init__": ("__init__", "DEFAULT = 3", "re-exports and registers"),
    "call in an __init__": ("__init__", "logging.basicConfig()", "re-exports and registers"),
    "long file": ("checkpoints", "x = 1\n" * (MAX_FILE_LINES + 1), "401 lines, at most 400"),
    "long function": (
        "checkpoints", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES, "checkpoints::f: 81 lines, at most 80",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed_snippets_pass(case):
    """Prevents a rule so broad that it forbids what the layout needs."""
    assert all_faults(*ALLOWED[case]) == []


@pytest.mark.parametrize("case", FORBIDDEN)
def test_forbidden_snippets_are_found(case):
    """Prevents a rule that never fires."""
    module, source, expected = FORBIDDEN[case]
    assert any(expected in fault for fault in all_faults(module, source)), all_faults(module, source)


def test_long_code_needs_an_exception_that_is_used():
    """Prevents a list of exceptions that covers more than it says."""
    method = "class A:\n    def f(self):\n" + "        x = 1\n" * MAX_FUNCTION_LINES
    assert size_faults("hub", method, {}) == ["hub::A.f: 81 lines, at most 80"]
    assert size_faults("hub", method, {"hub::A.f": "a reason"}) == []
    assert size_faults("hub", "x = 1", {"hub": "a reason"}) == ["hub: 1 lines, so it needs no exception"]
    assert size_faults("hub", "x = 1", {"hub::g": "a reason"}) == ["hub::g: an exception for what does not exist"]


def test_cycles_are_found():
    """Prevents a cycle between files that the arrow does not name."""
    one_way = {"training.cache": "from .teacher import T", "training.teacher": "import torch"}
    assert cycle_faults(one_way) == []
    assert cycle_faults({"__init__": "from .hub import push", "hub": "from . import __version__"}) == []
    both_ways = {**one_way, "training.teacher": "def f():\n    from .cache import read"}
    (fault,) = cycle_faults(both_ways)
    assert "training.cache" in fault and "training.teacher" in fault
    through_the_folder = {"evaluation.__init__": "from .bias import gap", "evaluation.bias": "from . import gap"}
    assert "a cycle of imports" in cycle_faults(through_the_folder)[0]
