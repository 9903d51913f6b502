"""`vita rephrase`: rewrites by a model of the store and by an endpoint, their share, links, drops and resumption."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.corpora import rows, write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import Vita, vita
from tests.rephrasing.openai_server import OpenAIServer, Reply, openai_server
from vita.life import stage
from vita.nn import hf
from vita.spine.errors import PlanError
from vita.spine.plan import Step
from vita.spine.traits import check_step

__all__ = ["vita"]

SENTENCES = (
    "{name} lives by river {n}. Its mill has {n} wheels, and {name} sells flour and bread in the small town every week."
)
TEXTS = {f"d{n}": SENTENCES.format(name=f"Miller {n}", n=n) for n in range(60)}


def subject(prompt: str) -> int:
    """Return the number of the document in a prompt."""
    return int(re.findall(r"Miller (\d+)", prompt)[0])


def rewrite(prompt: str) -> str:
    """Return 120 bytes about the document of a prompt."""
    return f"Q: Who has mill number {subject(prompt)}?\nA: ".ljust(120, "a")


@pytest.fixture
def corpus(vita: Vita, tmp_path: Path) -> Path:
    """Curate 60 letters with a licence, of which some are held out."""
    letters = ({"id": id, "text": text, "licence": "CC0", "page": 7} for id, text in TEXTS.items())
    path = write(tmp_path / "mail" / "a.jsonl", *letters)
    code, _, err = vita("curate", "mail", "--set", "filters=[]", "--held-out", "0.2", "--life", "x")
    assert code == 0, err
    return path


def rephrase(vita: Vita, server: OpenAIServer, *words: str) -> tuple[int, str, str]:
    endpoint = json.dumps({"url": server.url, "model": "writer"})
    return vita("rephrase", "--endpoint", endpoint, "--corpus", "x/curate", "--life", "x", *words)


def rewrites(vita: Vita) -> list[dict[str, Any]]:
    return [row for row in rows(vita, "x/rephrase") if "rewrite_of" in row["metadata"]]


def drop_reasons(vita: Vita) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in rows(vita, "x/rephrase", "drops")}


@pytest.mark.slow
def test_rewrites_of_an_endpoint_are_linked_to_their_documents_and_stay_below_the_share(
    vita: Vita, corpus: Path
) -> None:
    with openai_server(lambda prompt: Reply(rewrite(prompt))) as server:
        code, out, err = rephrase(vita, server, "--share", "0.25", "--styles", "{faq: 3, summary: 1}")
    assert code == 0, err
    before, after, added = rows(vita, "x/curate"), rows(vita, "x/rephrase"), rewrites(vita)
    assert after == [*before, *added]
    assert rows(vita, "x/rephrase", "heldout") == rows(vita, "x/curate", "heldout")
    natural, size = sum(len(row["text"].encode()) for row in before), len(added) * 120
    assert size <= 0.25 * (natural + size) and size + 120 > 0.25 * (natural + size + 120)
    assert {row["source"] for row in added} == {"rephrase/faq", "rephrase/summary"}
    held_out = {row["id"] for row in rows(vita, "x/curate", "heldout")}
    assert not held_out & {f"d{subject(prompt)}" for prompt in server.prompts}
    for row in added:
        origin, rephrasing = row["metadata"]["rewrite_of"], row["metadata"]["rephrasing"]
        assert row["id"] == f"mail/{origin['id']}#{rephrasing['style']}" and row["licence"] == "CC0"
        assert origin["sha256"] == hashlib.sha256(TEXTS[origin["id"]].encode()).hexdigest()
        assert origin["source"] == "mail" and origin["licence"] == "CC0" and row["metadata"]["page"] == 7
        assert rephrasing["model"] == {"endpoint": server.url, "name": "writer"}
        assert rephrasing["prompt_version"] == "1" and rephrasing["style"] == row["source"].removeprefix("rephrase/")
    assert "rewrites" in out
    report = Path(json.loads(vita("show", "x/rephrase", "--json")[1])["folder"], "report.html").read_text()
    assert f"faq of {added[0]['metadata']['rewrite_of']['id']}" in report or "summary of" in report


@pytest.mark.slow
def test_the_choice_of_documents_does_not_depend_on_the_concurrency(vita: Vita, corpus: Path) -> None:
    results = []
    for concurrency in (1, 7):
        with openai_server(lambda prompt: Reply(rewrite(prompt))) as server:
            setting = f"endpoint.concurrency={concurrency}"
            assert rephrase(vita, server, "--rerun", "--styles", "{faq: 1}", "--set", setting)[0] == 0
        results.append([(row["id"], row["text"]) for row in rewrites(vita)])
        assert len(server.bodies) <= len(results[-1]) + concurrency
    assert results[0] == results[1]


@pytest.mark.slow
def test_rewrites_that_fail_a_check_are_dropped_with_the_reason(vita: Vita, corpus: Path) -> None:
    held_out = rows(vita, "x/curate", "heldout")[0]["text"]
    trained = [row["id"] for row in rows(vita, "x/curate")]
    form = "This text reports where the mill stands, who owns it, when it was built, and how much flour it sells. End."
    cases = [
        (Reply("   "), "empty"),
        (Reply("<think>What is a mill?</think>"), "empty"),
        (Reply("Short?"), "too_short"),
        (Reply(f"Once more: {TEXTS[trained[3]]}"), "copy"),
        (lambda prompt: Reply(f"{prompt}\n\nQ: Who has the mill?"), "echo"),
        (Reply("Q: A?\nA: so ", "length"), "cut_off"),
        (Reply(f"I'm sorry, but I can't help with that. {form}"), "refusal"),
        (Reply("the text is too large", status=400), "refused_by_endpoint"),
        (Reply("", "content_filter"), "refused_by_endpoint"),
        (Reply(held_out), "held_out"),
        (Reply(TEXTS[trained[20]]), "duplicate"),
        (Reply("Who has it? It is a mill. " * 12), "repetition"),
        (Reply(form), "other_form"),
        (Reply(content=[{"type": "thinking", "thinking": "What is a mill?"}]), "empty"),
    ]
    replies = {TEXTS[id]: reply for id, (reply, _) in zip(trained, cases, strict=False)}

    def answer(prompt: str) -> Reply:
        parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": rewrite(prompt)}]
        reply = replies.get(prompt.rpartition("\n\n")[2]) or Reply(content=parts)
        return reply if isinstance(reply, Reply) else reply(prompt)

    options = ("--styles", "{faq: 1}", "--set", "endpoint.concurrency=1")
    with openai_server(answer) as server:
        code, _, err = rephrase(vita, server, "--share", "0.9", *options)
        assert code == 0, err
        reasons, first, requests = drop_reasons(vita), rewrites(vita), len(server.bodies)
        code, _, err = rephrase(vita, server, "--share", "0.8", *options)
        assert code == 0, err
        assert len(server.bodies) == requests + 2, "only what the endpoint has refused is requested again"
        assert (drop_reasons(vita), rewrites(vita)) == (reasons, first)
        replies.update(dict.fromkeys(replies, Reply(content={"text": "A"})))
        code, _, err = rephrase(vita, server, "--share", "0.7", *options)
        assert code == 6 and "expected an answer whose `content` is a text, null, or a list of parts with text" in err
        assert "got `content` of the type dict" in err
    assert reasons == {f"mail/{id}#faq": reason for id, (_, reason) in zip(trained, cases, strict=False)}
    assert {row["metadata"]["rewrite_of"]["id"] for row in rewrites(vita)} == set(trained[len(cases) :])
    facts = json.loads(vita("show", "x/rephrase", "--json")[1])["facts"]
    assert facts["documents"]["dropped"] == len(cases) and facts["dropped"]["refused_by_endpoint"] == 2
    assert all(row["text"].startswith("Q: Who has mill") for row in rewrites(vita))


def test_lone_surrogates_of_an_answer_are_replaced_and_errors_with_status_200_are_tried_again(
    vita: Vita, corpus: Path
) -> None:
    failures: list[str] = []

    def answer(prompt: str) -> Reply:
        if not failures:
            failures.append(prompt)
            return Reply("model overloaded", is_error=True)
        return Reply(f"{rewrite(prompt)} \ud800.")

    options = ("--share", "0.9", "--styles", "{faq: 1}")
    with openai_server(answer) as server:
        code, _, err = rephrase(vita, server, *options)
    assert code == 0, err
    assert all(row["text"].endswith("a \ufffd.") for row in rewrites(vita)) and len(rewrites(vita)) > 20
    with openai_server(lambda prompt: Reply("model overloaded", is_error=True)) as server:
        code, _, err = rephrase(vita, server, *options, "--rerun", "--set", "endpoint.retries=1")
    assert code == 6 and "no answer after 2 attempts: status 200: model overloaded" in err


@pytest.mark.slow
def test_a_run_that_ended_early_does_not_request_its_answers_again(
    vita: Vita, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITER_KEY", "sk-secret-7")
    options = ("--share", "0.9", "--styles", "{faq: 1}", "--set", "endpoint.concurrency=1", "--set",
               "endpoint.retries=1", "--set", "endpoint.key_variable=WRITER_KEY")  # fmt: skip
    broken = True

    def answer(prompt: str) -> Reply:
        if broken and len(server.bodies) > 10:
            return Reply("overloaded, key sk-secret-7", status=503)
        return Reply(rewrite(prompt))

    with openai_server(answer) as server:
        code, out, err = rephrase(vita, server, *options)
        assert code == 6 and "no answer after 2 attempts: status 503: overloaded, key ***" in err
        assert "run the same command again" in err and "sk-secret" not in out + err
        assert len(server.bodies) == 12, "ten answers, and two attempts for the next one"
        [log] = (tmp_path / "vita-store").rglob("results.jsonl")
        log.write_bytes(log.read_bytes() + b'\n{"id": "mail/d1#faq", "te')  # as a kill leaves it
        broken, first = False, server.prompts[:10]
        code, _, err = rephrase(vita, server, *options)
        assert code == 0, err
    assert not set(first) & set(server.prompts[12:]) and len(set(server.prompts)) == len(server.bodies) - 2
    assert len(rewrites(vita)) == len(rows(vita, "x/curate")), "the answers of both runs"
    assert set(server.keys) == {"Bearer sk-secret-7"}
    assert not any(b"sk-secret" in path.read_bytes() for path in (tmp_path / "vita-store").rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_run_with_another_share_and_changed_documents_requests_only_new_rewrites(
    vita: Vita, corpus: Path, tmp_path: Path
) -> None:
    with openai_server(lambda prompt: Reply(rewrite(prompt))) as server:
        assert rephrase(vita, server, "--share", "0.9", "--styles", "{faq: 1}", "--limit", "20")[0] == 0
        first = {row["id"]: row["text"] for row in rewrites(vita)}
        changed = next(iter(first)).removeprefix("mail/").removesuffix("#faq")
        letters = [{"id": id, "text": text + " New." if id == changed else text} for id, text in TEXTS.items()]
        write(tmp_path / "mail" / "a.jsonl", *letters)
        assert vita("curate", "mail", "--set", "filters=[]", "--held-out", "0.2", "--life", "x")[0] == 0
        code, _, err = rephrase(vita, server, "--share", "0.2", "--styles", "{faq: 1}")
    assert code == 0, err
    assert len(first) == 20 and len(rewrites(vita)) < 20
    assert len(server.bodies) <= 20 + 2 + 8, "the changed document, and at most those ahead of the last one"


@pytest.mark.slow
def test_a_model_of_the_store_rewrites_and_its_corpus_is_tokenized(vita: Vita, corpus: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model", context=1024)
    stops = hf.GenerationTokens(start=256, padding=256, stop=(256, 258, *range(224, 256)))  # answers of some 8 bytes
    hf.save_generation(stops, tmp_path / "model")
    options = ("--corpus", "x/curate", "--life", "x", "--max-tokens", "64", "--min-bytes", "4", "--temperature", "1",
               "--set", "check_form=false", "--limit", "12")  # fmt: skip
    code, _, err = vita("rephrase", "model", *options)
    assert code == 0, err
    added = rewrites(vita)
    digest = added[0]["metadata"]["rephrasing"]["model"]["artifact"]
    assert json.loads(vita("show", digest, "--json")[1])["kind"] == "model"
    assert 0 < len(added) <= 12 and len(added) + len(drop_reasons(vita)) == 12
    assert vita("tokenize", "--vocabulary", "300", "--life", "x")[0] == 0
    facts = json.loads(vita("show", "x/tokenize", "--json")[1])["facts"]
    assert facts["documents"] == len(rows(vita, "x/curate")) + len(added)


@pytest.mark.slow
def test_rewrites_with_a_passage_of_the_benchmarks_of_the_corpus_are_dropped(
    vita: Vita, corpus: Path, tmp_path: Path
) -> None:
    question = "Which of the seven old mills beside the northern river grinds the most flour in one cold winter?"
    write(tmp_path / "bench.jsonl", {"question": question})
    settings = json.dumps({"benchmarks": {"mills": "bench.jsonl"}})
    words = ("--set", "filters=[]", "--held-out", "0.2", "--life", "x", "--decontaminate", settings)
    assert vita("curate", "mail", *words)[0] == 0

    def answer(prompt: str) -> Reply:
        return Reply(f"{rewrite(prompt)} {question}" if subject(prompt) < 30 else rewrite(prompt))

    with openai_server(answer) as server:
        code, _, err = rephrase(vita, server, "--share", "0.9", "--styles", "{faq: 1}")
        assert code == 0, err
        contaminated = [id for id, reason in drop_reasons(vita).items() if reason == "contaminated"]
        assert contaminated and all(int(re.findall(r"d(\d+)#", id)[0]) < 30 for id in contaminated)
        assert not any(question in row["text"] for row in rewrites(vita))
        write(tmp_path / "bench.jsonl", {"question": "other"})
        code, _, err = rephrase(vita, server, "--share", "0.8")
        assert code == 3 and "bench.jsonl has changed since" in err


@pytest.mark.slow
def test_inputs_that_do_not_suit_are_refused_with_the_reason(vita: Vita, corpus: Path, tmp_path: Path) -> None:
    code, _, err = vita("rephrase", "--life", "x")
    assert code == 2 and "no model rewrites the documents: set the input `model`, or `endpoint" in err
    model, endpoint = str(save_chat_model(tmp_path / "model")), '{url: "http://127.0.0.1:9/v1", model: w}'
    code, _, err = vita("rephrase", model, "--endpoint", endpoint, "--life", "x")
    assert code == 2 and "both the input `model` and an `endpoint` are set" in err
    life = {"name": "x", "stages": {"curate": {"sources": ["mail"]}, "rephrase": {}, "tokenize": {}}}
    (tmp_path / "life.yaml").write_text(json.dumps(life))
    code, _, err = vita("plan", "life.yaml")
    assert code == 2 and "rephrase: no model rewrites the documents" in err
    step = Step("rephrase", stage("rephrase"), stage("rephrase").config(), {"corpus": "@0", "model": "@1"})
    with pytest.raises(PlanError, match="cannot use this model: it is an encoder"):
        check_step(step, {"corpus": None, "model": {"causal": False}})
    code, _, err = vita("rephrase", model, "--life", "x")
    assert code == 2 and "rephrase.max_tokens: expected less than the model's context of 128, got 1024" in err
    code, _, err = vita("rephrase", "--endpoint", endpoint, "--styles", "{tabel: 1}", "--life", "x")
    assert code == 2 and "did you mean `table`?" in err
    code, _, err = vita("rephrase", "--endpoint", "{url: ftp://x, model: w}", "--life", "x")
    assert code == 2 and "a URL http://HOST/v1 or https://HOST/v1" in err
    code, _, err = vita("rephrase", "--endpoint", endpoint, "--set", "endpoint.key_variable=NO_SUCH", "--life", "x")
    assert code == 2 and "environment variable NO_SUCH: is not set" in err
    code, _, err = vita("rephrase", "--endpoint", endpoint, "--set", "endpoint.retries=0", "--life", "x")
    assert code == 6 and "no answer after 1 attempts: ConnectError" in err
    with openai_server(lambda prompt: Reply("unknown model", status=404)) as server:
        code, _, err = rephrase(vita, server)
        assert code == 6 and "status 404: unknown model; correct `url`, `model` or the key" in err
    with openai_server(lambda prompt: Reply("no")) as server:
        code, _, err = rephrase(vita, server)
        assert code == 3 and "no rewrite is left" in err and "all dropped (too_short" in err
