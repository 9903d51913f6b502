"""Pages and cards show text of models, users and files literally, never as markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cards.lives import Life, first_half, record_answers, second_half
from tests.cli.models import Vita, command_runner

HOSTILE = (
    "</script><script>alert(1)</script> \"onload='x' [a](http://e.example) ![i](http://e.example/i.png) "
    "<http://e.example> [r][r] `c` *b* _u_ ~~s~~ |bar| \x1b[2J\x07 \u202egnp.exe\u2066 &copy; &lt;b&gt; end"
)
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ACTIVE_TAGS = {"script", "iframe", "object", "embed", "link", "img", "base", "form", "meta-refresh"}


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    for name in ("VITA_STORE", "VITA_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    return command_runner(capsys)


class _Page(HTMLParser):
    """The tags, attributes and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def check_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert not page.tags & ACTIVE_TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("href", "src") and not value.startswith("#")]
    assert not HIDDEN.search(text)
    assert "</script><script>alert(1)</script>" in page.text and r"\u202egnp.exe" in page.text


def check_markdown(text: str) -> None:
    """Parse the Markdown as GitHub and the Hugging Face Hub do, and check that no text has become markup."""
    markdown_it = pytest.importorskip("markdown_it")
    from markdown_it.token import Token

    def with_descendants(tokens: list[Token]) -> list[Token]:
        return [descendant for token in tokens for descendant in (token, *with_descendants(token.children or []))]

    tokens = with_descendants(markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text))
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "s_open", "code_inline"}
    assert all(str(token.attrs["src"]).startswith("figures/") for token in tokens if token.type == "image")
    assert not HIDDEN.search(text)
    text_content = "".join(token.content for token in tokens if token.type in ("text", "text_special"))
    assert "</script><script>alert(1)</script>" in text_content and "*b* _u_ ~~s~~ |bar|" in text_content
    assert "&copy; &lt;b&gt;" in text_content


@pytest.mark.slow
def test_cards_and_pages_show_hostile_text_of_the_ledger_literally(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cards.lives.EVIL", HOSTILE)
    life = Life(tmp_path, name="x" + HOSTILE.replace("/", ""))
    chat = first_half(life)
    model = second_half(life, chat)
    record_answers(life, {model: [HOSTILE]})
    life.ledger.name(f"{life.name}/{HOSTILE}", chat)
    life.ledger.close()
    store_options = ("--store", str(tmp_path / "store"), "--ledger", str(tmp_path / "ledger.db"))
    for digest in (chat, model):
        code, out, err = vita(*store_options, "card", digest, "--output", "card")
        assert code == 0, err
        check_html(tmp_path / "card/card.html")
        check_markdown((tmp_path / "card/README.md").read_text(encoding="utf-8").split("---\n", 2)[2])
        code, out, err = vita(*store_options, "card", digest)
        assert code == 0 and not HIDDEN.search(out) and "<script>alert(1)</script>" in out.replace("\n", ""), err
    code, out, err = vita(*store_options, "report", life.name, "--output", "life.html")
    assert code == 0, err
    check_html(tmp_path / "life.html")
    for command in (("ls",), ("show", chat), ("trace", model), ("findings",)):
        code, out, err = vita(*store_options, *command)
        assert code == 0 and not HIDDEN.search(out), (command, err)


def test_the_report_of_a_corpus_shows_hostile_sources_and_documents_literally(vita: Vita, tmp_path: Path) -> None:
    rows = [{"id": f"{HOSTILE}{number}", "text": HOSTILE} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "rows.jsonl", "name": HOSTILE, "licence": HOSTILE}
    settings = ("--set", f"sources=[{json.dumps(source)}]", "--set", "filters=[]", "--held-out", "0")
    code, _, err = vita("curate", *settings)
    assert code == 0, err
    code, out, err = vita("show", "my/curate")
    assert code == 0 and not HIDDEN.search(out), err
    (manifest,) = (tmp_path / "vita-store/artifacts").glob("*.json")
    digest = json.loads(manifest.read_text())["files"]["report.md"]["sha256"]
    report = (tmp_path / "vita-store/objects" / digest[:2] / digest).read_text(encoding="utf-8")
    check_markdown(report)


def test_a_page_omits_a_figure_that_vita_did_not_draw(vita: Vita, tmp_path: Path) -> None:
    life = Life(tmp_path, name="x")
    picture = '<svg xmlns="http://www.w3.org/2000/svg"><text x="1" onclick="alert(1)">outside</text></svg>'
    metrics = [{"step": step, HOSTILE: 1.0 / step, "loss": 1.0 / step} for step in (1, 2)]
    files = {"report/figures/loss.svg": picture, "report/metrics.jsonl": "\n".join(map(json.dumps, metrics))}
    life.step("sft", "model", files=files)
    life.ledger.close()
    code, _, err = vita("--store", str(tmp_path / "store"), "--ledger", str(tmp_path / "ledger.db"), "report", "x")
    assert code == 0, err
    check_html(tmp_path / "life.html")
    assert "outside" not in (tmp_path / "life.html").read_text(encoding="utf-8")
