"""`vita review` from two models to ratings, a report and preference pairs."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from vita.cli import main
from vita.data.tokens.chat_template import ChatTemplate
from vita.nn import hf
from vita.testing import byte_tokenizer, tiny_model

Vita = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    """Return a function that runs a command in a folder with two models, with `typed_words` as keyboard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    for number, name in enumerate(("new", "old")):
        folder = tmp_path / name
        folder.mkdir()
        hf.save(tiny_model(seed=number, context=128), folder)
        byte_tokenizer().save(folder)
        ChatTemplate.default().save(folder)
    (tmp_path / "prompts.txt").write_text("What is a cat?\nWhat is hail?\nSay hello.\n")

    def run(*words: str, typed_words: str = "") -> tuple[int, str, str]:
        lines = iter(typed_words.split())

        def next_word(_prompt: str = "") -> str:
            try:
                return next(lines)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", next_word)
        capsys.readouterr()
        try:
            main(list(words))
            code = 0
        except SystemExit as exit_info:
            code = exit_info.code if isinstance(exit_info.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


CREATE = ("review", "create", "--models", "new", "old", "--prompts", "prompts.txt", "--max-tokens", "8")


@pytest.mark.slow
def test_a_review_from_models_to_pairs(vita: Vita, tmp_path: Path) -> None:
    code, out, err = vita(*CREATE, "--kind", "pairwise", "--raters", "2", "--name", "t", "--json")
    assert code == 0, err
    assert json.loads(out)["items"] == 3
    code, _, err = vita("review", "report", "t")
    assert code == 3 and "has no ratings by people yet" in err
    code, out, err = vita("review", "rate", "t", "--rater", "ann", typed_words="1 nonsense t")
    assert code == 0 and "2 of 3 rated" in out and "new" not in out.replace("news", ""), err
    assert "3 of 3 rated" in vita("review", "rate", "t", "--rater", "ann", typed_words="2")[1]
    assert "3 of 3 rated" in vita("review", "rate", "t", "--rater", "bob", typed_words="1 1 1")[1]
    assert "3 votes" in vita("review", "judge", "t", "--rule", "shorter")[1]
    assert "3 votes" in vita("review", "judge", "t", "--model", "new")[1]
    (task,) = json.loads(vita("review", "list", "--json")[1])
    assert task["by_rater"] == {"ann": 3, "bob": 3} and task["ratings"] == 6

    result = json.loads(vita("review", "report", "t", "--json")[1])
    assert {"preferred", "alpha", "left", "both_bad", "rule:shorter/alpha"} <= set(result["figures"])
    details = json.loads(vita("show", "review/t", "--json")[1])
    assert details["kind"] == "report" and "review/preferred" in details["facts"]
    assert set(details["run"]["inputs"].values()) == set(task["models"].values())
    report = json.loads((Path(result["folder"]) / "report.json").read_text())
    assert report["model"] == task["models"]["new"]
    assert "preferred" in vita("review", "report", "t")[1] and "rater" in vita("review", "list")[1]

    assert vita("review", "export", "t", "--output", "pairs.jsonl")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert all({"prompt", "chosen", "rejected", "margin"} <= set(row) for row in rows)
    assert vita("review", "export", "t")[1] == (tmp_path / "pairs.jsonl").read_text()


def test_a_gate_can_use_the_figures_of_a_review(vita: Vita, tmp_path: Path) -> None:
    from vita.gates.decisions import _evidence
    from vita.gates.policy import Policy
    from vita.spine.ledger import Ledger
    from vita.spine.store import Store

    assert vita(*CREATE, "--name", "t")[0] == 0
    assert vita("review", "rate", "t", "--rater", "ann", typed_words="1 2 1")[0] == 0
    assert vita("review", "report", "t")[0] == 0
    criterion = {"report": "review/t", "figure": "review/preferred", "at_least": 0.5}
    policy = Policy.model_validate({"model": "sft", "bars": [criterion]})
    store = Store("vita-store", cache=tmp_path / "cache")
    evidence = _evidence(Ledger("vita-store/ledger.db"), store, "cat", policy.bars, model="m" * 64)
    assert (evidence["review/t"].folder / "report.json").is_file()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers(vita: Vita) -> None:
    from vita.review.desk import ReviewStore
    from vita.spine.ledger import Ledger

    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert vita(*CREATE, "--name", name, "--seed", seed)[0] == 0
    desk = ReviewStore(Ledger("vita-store/ledger.db"))
    texts = {name: [item.answers for item in desk.items(desk.task(name))] for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]


@pytest.mark.slow
def test_a_rubric_is_rated_in_the_terminal(vita: Vita) -> None:
    assert vita(*CREATE, "--kind", "rubric", "--name", "r", "--limit", "1")[0] == 0
    code, out, _ = vita("review", "rate", "r", "--rater", "ann", typed_words="5 4 3 2 s")
    assert code == 0 and "2 of 2 rated" in out and "I do not understand it." in out
    figures = json.loads(vita("review", "report", "r", "--json")[1])["figures"]
    assert {"clarity", "clarity/alpha", "boundaries", "skipped"} <= set(figures)


@pytest.mark.parametrize(
    ("words", "expected_code", "message"),
    [
        (["report", "nothing"], 2, "there is no task `nothing`"),
        (["create", "--models", "new", "--prompts", "prompts.txt", "--name", "x"], 2, "for pairs at least two"),
        (["create", "new", "old", "--prompts", "nowhere.txt", "--name", "x"], 3, "nowhere.txt"),
        (["create", "new", "old", "--prompts", "prompts.txt", "--name", "x", "--kind", "pair"], 2, "did you mean `pairwise`"),  # noqa: E501
        (["create", "new", "old", "--name", "x"], 2, "expected --models, --prompts and --name"),
        (["judge", "x"], 2, "either --rule or --model"),
        (["create", "new", "old", "--prompts", "prompts.txt", "--name", "x", "--temperature", "-1"], 2, "review.temperature"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_mistake_of_the_user_is_a_one_line_error(
    vita: Vita, words: list[str], expected_code: int, message: str
) -> None:
    code, out, err = vita("review", *words)
    assert code == expected_code and message in " ".join(err.split()), out + err


def test_the_page_is_served_with_a_link_for_each_rater(vita: Vita, capsys: pytest.CaptureFixture[str]) -> None:
    import uvicorn

    assert vita(*CREATE, "--name", "t")[0] == 0
    servers: list[uvicorn.Server] = []
    run = uvicorn.Server.run

    def record_and_run(self: uvicorn.Server, sockets: list | None = None) -> None:
        servers.append(self)
        run(self, sockets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.Server, "run", record_and_run)
        patch.setattr(uvicorn.Server, "install_signal_handlers", lambda self: None, raising=False)
        thread = threading.Thread(target=vita, args=("review", "serve", "t", "--port", "0", "--rater", "ann"))
        thread.start()
        output = ""
        for _ in range(200):
            output += capsys.readouterr().out
            if servers and servers[0].started and "Ctrl-C" in output:
                break
            time.sleep(0.05)
        link = next(line.split()[1] for line in output.splitlines() if line.startswith("ann"))
        with urllib.request.urlopen(link) as response:
            assert response.status == 200 and b"Guideline" in response.read()
        servers[0].should_exit = True
        thread.join(10)
    assert not thread.is_alive()
