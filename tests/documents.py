"""README and the pages of docs/ as tests read them: blocks of code, and what is said to be printed."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def promised(code: str) -> list[str]:
    """What the comments behind `print(...)` say that it prints."""
    return PRINTED.findall(code)


def missing_lines(printed: str, expected: list[str]) -> list[str]:
    """The expected lines that were not printed, in their order, after the ones before them."""
    lines = iter(printed.splitlines())
    return [wanted for wanted in expected if wanted not in lines]


def commands(page: Path) -> list[list[str]]:
    """Every line of the page's shell blocks as words, comments left out, continued lines joined."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


def run_blocks(page: Path, names: dict[str, object]) -> None:
    """Run the page's Python in its order, with `names` known."""
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
