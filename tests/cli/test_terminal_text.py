"""Text of models, users and files is shown as it is: no markup, no emoji codes, no control sequences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.models import Vita, command_runner, save_chat_model
from vita.data.records import Message
from vita.review.desk import ReviewStore
from vita.spine.console import line, one_line, open_console, printable
from vita.spine.ledger import Ledger

HOSTILE = "x[0] = y[int] :smile: [/INST] [bold]b[/] \x1b[31mred\x1b]0;title\x07\x9b2J end"
SHOWN = r"x[0] = y[int] :smile: [/INST] [bold]b[/] \x1b[31mred\x1b]0;title\x07\x9b2J end"
SOURCE = Path(__file__).parents[2] / "vita"


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.delenv("VITA_STORE", raising=False)
    save_chat_model(tmp_path / "model", context=256)
    return command_runner(capsys)


def test_generate_shows_prompts_and_answers_as_they_are(vita: Vita) -> None:
    code, out, err = vita("generate", "model", HOSTILE, "b", "--max-tokens", "2")
    assert code == 0, err
    assert SHOWN in out
    code, out, err = vita("generate", "model", "a", "--max-tokens", "60", "--seed", "3")
    assert code == 0, err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out), "the answer of a random model holds control characters"


def test_raters_see_questions_and_answers_as_they_are(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "is [/INST] :cat: text?"}\n')
    save_chat_model(tmp_path / "other", context=256, seed=1)
    create = ("review", "create", "model", "other", "--prompts", "prompts.jsonl", "--name", "t", "--max-tokens", "4")
    code, _, err = vita(*create)
    assert code == 0, err
    monkeypatch.setattr("builtins.input", lambda _prompt="": "q")
    code, out, err = vita("review", "rate", "t", "--rater", "[/Ada]")
    assert code == 0, err
    assert "is [/INST] :cat: text?" in out


def test_errors_show_arguments_as_they_are_and_on_one_line(vita: Vita) -> None:
    code, _, err = vita("show", "a[/INST]:smile:\n\x1b[2Jb")
    assert code == 4 and r"a[/INST]:smile: \x1b[2Jb" in err and err.count("\n") == 1, err
    code, _, err = vita("[/INST]:smile:")
    assert code == 2 and "No such command '[/INST]:smile:'" in err, err


def test_the_ledger_s_texts_are_shown_as_they_are(vita: Vita, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")
    ReviewStore(ledger)
    ledger.close()
    name = "key [/] :cat: \x1b[1m"
    assert vita("keys", "create", name)[0] == 0
    assert r"key [/] :cat: \x1b[1m" in vita("keys", "list")[1]


def test_a_console_reads_no_markup_anywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.tree import Tree

    monkeypatch.setenv("COLUMNS", "250")
    table = Table(HOSTILE, title=HOSTILE, box=None)
    table.add_row(HOSTILE)
    console = open_console()
    for renderable in (HOSTILE, table, Tree(HOSTILE), line("a ", (HOSTILE, "bold"))):
        capsys.readouterr()
        console.print(renderable)
        assert SHOWN in capsys.readouterr().out, renderable
    console.print(Markdown("a \x1b[31m `b\x1b` :smile:"))
    out = capsys.readouterr().out
    assert "\x1b" not in out and ":smile:" in out


def test_every_console_is_made_in_one_place() -> None:
    """A second way to make a console, or markup in a printed text, would read user text as markup again."""
    made = [path for path in SOURCE.rglob("*.py") if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))]
    assert [path.name for path in made if path.name != "console.py"] == []
    marked = re.compile(r"\[/\]|\[(?:bold|dim|red|yellow|green)[^\]\n]*\]")
    assert [
        path.name for path in (SOURCE / "cli").glob("*.py") if marked.search(path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("progress\roverwritten", r"progress\roverwritten"),
        ("windows\r\nlines", "windows\r\nlines"),
        ("caf\udce9.txt", r"caf\xe9.txt"),
        ("é 猫 😀", "é 猫 😀"),
    ],
)
def test_printable_text_keeps_every_script_and_escapes_controls(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert "\n" not in one_line(text)


def test_roles_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    message = Message("user", "[red]x[/red]")
    open_console().print(line((message.role, "bold"), f"  {message.content}"))
    assert "user  [red]x[/red]" in capsys.readouterr().out
