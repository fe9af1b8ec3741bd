"""Names that are places here or names on the Hub."""

import pytest

from distil_whisper_hf.places import check_hub_name, local_or_hub

WHAT = "a Whisper (--model)"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with runs/catalan and table.csv."""
    (tmp_path / "runs" / "catalan").mkdir(parents=True)
    (tmp_path / "table.csv").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_here_and_what_may_be_there(here, monkeypatch):
    """Silent: a folder that is there and is looked up elsewhere, or a Hub name that is refused."""
    for name in ("runs", "runs/catalan", "./runs/", "table.csv", str(here), "openai/whisper-small", "whisper-base"):
        assert local_or_hub(name, WHAT) == name
    monkeypatch.setenv("HOME", str(here))
    assert local_or_hub("~/runs", WHAT) == str(here / "runs")


@pytest.mark.parametrize(
    "name",
    ["runs/galician", "./model", "../model", "~/model", "a/b/c", "user/table.csv", "new.jsonl", "x\\y", "models/"],
)
def test_paths_are_never_looked_up(here, name):
    """Silent: somebody else's repository in place of a folder whose name was misspelt."""
    with pytest.raises(ValueError, match=r"Expected a Whisper \(--model\), .* does not exist") as caught:
        local_or_hub(name, WHAT)
    assert ("is no Hub name" in str(caught.value)) == (name == "runs/galician")


@pytest.mark.parametrize("name", ["", "a b", "user/", "-x", "a--b", "a..b"])
def test_what_is_neither_is_refused(here, name):
    """Silent: a name that only fails after a wait for the network."""
    with pytest.raises(ValueError, match=r"Expected a Whisper \(--model\)"):
        local_or_hub(name, WHAT)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("runs/catalam", r"is it 'runs/catalan'\? \('runs' is a folder here, so this is no Hub name"),
        ("run/catalan/x", r"is it 'runs'\?"),
        ("tabel.csv", r"is it 'table.csv'\?"),
        ("runs/zz/model", "'runs' has no 'zz'"),
        ("table.csv/x/y", "'table.csv' is a file"),
    ],
)
def test_the_nearest_name_is_offered(here, name, remedy):
    """Silent: a remedy that names what is not there."""
    with pytest.raises(ValueError, match=remedy):
        local_or_hub(name, WHAT)


@pytest.mark.parametrize("name", ["whisper", "user/a/b", "user/", "a b/c"])
def test_repositories_have_an_owner(name):
    """Silent: a push that fails after everything was made."""
    check_hub_name("user/whisper-pl")
    with pytest.raises(ValueError, match="Expected a repository as user/name"):
        check_hub_name(name)
