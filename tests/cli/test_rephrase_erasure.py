"""The trace and the erasure of documents with rewrites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.corpora import rows
from tests.cli.test_cli import Vita, vita
from tests.cli.test_rephrase import corpus, rephrase, rewrite, rewrites
from tests.rephrasing.openai_server import Reply, openai_server

__all__ = ["corpus", "vita"]

STYLE = ("--styles", "{faq: 1}", "--share", "0.9")


def trace(vita: Vita, id: str) -> list[dict[str, Any]]:
    code, out, err = vita("trace-document", id, "--json")
    assert code == 0, err
    return json.loads(out)["holders"]


def erase(vita: Vita, id: str) -> None:
    code, _, err = vita("forget", id, "--by", "Ada")
    assert code == 0, err


@pytest.mark.slow
def test_the_rewrites_of_an_erased_document_are_excluded_from_later_corpora(
    vita: Vita, corpus: Path, tmp_path: Path
) -> None:
    with openai_server(lambda prompt: Reply(rewrite(prompt))) as server:
        assert rephrase(vita, server, *STYLE)[0] == 0
        first = rewrites(vita)[0]
        origin = first["metadata"]["rewrite_of"]["id"]
        [held] = [row for row in trace(vita, origin) if row["source"] == "rephrase/faq"]
        assert (
            held["use"] == "trained on"
            and f"`mail/{origin}#faq`, a rewrite of it in the style faq" in held["explanation"]
        )
        folder = json.loads(vita("show", "x/rephrase", "--json")[1])["folder"]
        again = ("curate", f"{folder}/train/rephrased-*.jsonl.zst", "--set", "filters=[]", "--life", "y")
        assert vita(*again)[0] == 0
        assert first["id"] in {row["id"] for part in ("train", "heldout") for row in rows(vita, "y/curate", part)}
        erase(vita, origin)
        assert vita(*again)[0] == 0
        drops = {row["id"]: row for row in rows(vita, "y/curate", "drops")}
        assert drops[first["id"]]["reason"] == "erased" and "requested by Ada" in drops[first["id"]]["detail"]
        assert vita("curate", "mail", "--set", "filters=[]", "--held-out", "0.2", "--life", "x")[0] == 0
        requests = len(server.bodies)
        assert rephrase(vita, server, *STYLE)[0] == 0
        assert origin not in {row["metadata"]["rewrite_of"]["id"] for row in rewrites(vita)}
        assert len(server.bodies) == requests, "the other rewrites are used again"
        assert vita("tokenize", "--corpus", "y/curate", "--vocabulary", "280", "--life", "y")[0] == 0
        plan = vita("forget", "--source", "mail", "--by", "Ada")
        assert plan[0] == 0 and "y/tokenize" in (tmp_path / "erasure-2" / "plan.md").read_text(), plan
        code, _, err = vita(*again)
        assert code == 3 and "no document is left" in err and "erased" in err


@pytest.mark.slow
def test_an_erased_rewrite_is_not_added_again(vita: Vita, corpus: Path) -> None:
    with openai_server(lambda prompt: Reply(rewrite(prompt))) as server:
        assert rephrase(vita, server, *STYLE)[0] == 0
        first = rewrites(vita)[0]
        assert trace(vita, first["id"])[0]["explanation"] == "in the training text"
        erase(vita, first["id"])
        code, _, err = rephrase(vita, server, *STYLE)
        assert code == 0, err
    assert first["id"] not in {row["id"] for row in rows(vita, "x/rephrase")}
    assert {row["id"]: row["reason"] for row in rows(vita, "x/rephrase", "drops")}[first["id"]] == "erased"
