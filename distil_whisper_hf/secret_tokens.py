"""Tokens of the Hub, and passwords in addresses, kept out of whatever is written or said: the one place for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Of a user or an organisation, or one that a service was lent (OAuth, a job of a CI).
TOKEN = re.compile(r"hf_(?:[A-Za-z0-9]{16,}|(?:oauth|jwt)_[\w.-]{16,})")
MASK = "[token]"
# What stands between the scheme and the host: user, user:password or a token.
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_FLAG = re.compile(r"--\w*token")


def without_tokens(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with every token in it replaced: those in `secrets`, and whatever looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        # As it stands and without line ends, as a header shows it.
        for form in (repr(secret)[1:-1], secret, secret.strip()):
            text = text.replace(form, MASK) if form else text
    return TOKEN.sub(MASK, _IN_ADDRESS.sub(MASK, text))


def given_tokens(words: Sequence[str]) -> set[str]:
    """The tokens among the words of a command line: what stands after `--hub_token` and its like."""
    found = set()
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, equals, value = word.partition("=")
        if _FLAG.fullmatch(flag.replace("-", "_").replace("__", "--", 1)):
            found.add(value if equals else following)
    return {token for token in found if token.strip()}


def without_given_tokens(words: Sequence[str]) -> list[str]:
    """The words of a command line as they may be kept: every token in them replaced."""
    secrets = given_tokens(words)
    return [without_tokens(word, secrets) for word in words]


def hide_tokens(error: BaseException, secrets: Iterable[str] = ()) -> None:
    """Take every token out of what an exception says, and out of what those say that it came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.args = tuple(without_tokens(one, secrets) if isinstance(one, str) else one for one in found.args)
        for name in ("strerror", "filename", "filename2") if isinstance(found, OSError) else ():
            if isinstance(value := getattr(found, name), str):
                setattr(found, name, without_tokens(value, secrets))
        found = found.__cause__ or found.__context__
