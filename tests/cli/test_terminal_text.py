"""Text of models, users and files is shown literally: no markup, emoji codes or control sequences."""

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
ESCAPED = r"x[0] = y[int] :smile: [/INST] [bold]b[/] \x1b[31mred\x1b]0;title\x07\x9b2J end"
SOURCE = Path(__file__).parents[2] / "vita"


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.delenv("VITA_STORE", raising=False)
    save_chat_model(tmp_path / "model", context=256)
    return command_runner(capsys)


@pytest.mark.slow
def test_generate_shows_prompts_and_answers_literally(vita: Vita) -> None:
    code, out, err = vita("generate", "model", HOSTILE, "b", "--max-tokens", "2")
    assert code == 0, err
    assert ESCAPED in out
    code, out, err = vita("generate", "model", "a", "--max-tokens", "60", "--seed", "3")
    assert code == 0, err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out), "the output of a random model has control characters"


@pytest.mark.slow
def test_raters_see_questions_and_answers_literally(
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


def test_errors_show_arguments_literally_and_on_one_line(vita: Vita) -> None:
    code, _, err = vita("show", "a[/INST]:smile:\n\x1b[2Jb")
    assert code == 4 and r"a[/INST]:smile: \x1b[2Jb" in err and err.count("\n") == 1, err
    code, _, err = vita("[/INST]:smile:")
    assert code == 2 and "No such command '[/INST]:smile:'" in err, err


def test_texts_of_the_ledger_are_shown_literally(vita: Vita, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "vita-store" / "ledger.db")
    ReviewStore(ledger)
    ledger.close()
    name = "key [/] :cat: \x1b[1m"
    assert vita("keys", "create", name)[0] == 0
    assert r"key [/] :cat: \x1b[1m" in vita("keys", "list")[1]


def test_a_console_interprets_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert ESCAPED in capsys.readouterr().out, renderable
    console.print(Markdown("a \x1b[31m `b\x1b` :smile:"))
    out = capsys.readouterr().out
    assert "\x1b" not in out and ":smile:" in out


def test_every_console_is_created_by_open_console() -> None:
    """Another way to create a console, or markup in a printed text, would interpret user text as markup again."""
    paths = [path for path in SOURCE.rglob("*.py") if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))]
    assert [path.name for path in paths if path.name != "console.py"] == []
    markup_pattern = re.compile(r"\[/\]|\[(?:bold|dim|red|yellow|green)[^\]\n]*\]")
    assert [
        path.name for path in (SOURCE / "cli").glob("*.py") if markup_pattern.search(path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("progress\roverwritten", r"progress\roverwritten"),
        ("windows\r\nlines", "windows\r\nlines"),
        ("caf\udce9.txt", r"caf\xe9.txt"),
        ("é 猫 😀", "é 猫 😀"),
    ],
)
def test_printable_text_keeps_every_script_and_escapes_controls(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert "\n" not in one_line(text)


def test_the_role_of_a_message_is_not_interpreted_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    message = Message("user", "[red]x[/red]")
    open_console().print(line((message.role, "bold"), f"  {message.content}"))
    assert "user  [red]x[/red]" in capsys.readouterr().out
