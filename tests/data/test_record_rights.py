"""The rights of a record are read from its fields, and a policy drops records by rule and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.document_files import page_record
from vita.data.record_rights import Rights, RightsPolicy, rights_of
from vita.data.records import Document, DroppedRecord
from vita.data.sources.page_rights import page_rights
from vita.data.sources.prompts import prompts
from vita.data.sources.read import Source, dialogues, documents


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, Rights("MIT")),
        ({"opt_out": ""}, Rights("MIT")),
        ({"opt_out": False}, Rights("MIT", opt_out=False)),
        ({"opt_out": "no"}, Rights("MIT", opt_out=False)),
        ({"opt_out": "by e-mail, 3 May"}, Rights("MIT", opt_out=True)),
        ({"robots": "noindex"}, Rights("MIT", "noindex")),
        ({"robots": ["noindex", "NoAI"], "opt_out": False}, Rights("MIT", "noindex, NoAI", True)),
        ({"consent": "Yes"}, Rights("MIT", consent="given")),
        ({"consent": "withdrawn"}, Rights("MIT", consent="refused")),
        ({"consent": "form 12"}, Rights("MIT", consent="form 12")),
    ],
)
def test_fields_state_rights(metadata: dict[str, Any], expected: Rights) -> None:
    assert rights_of(Document("d", "", "s", "MIT", metadata)) == expected


@pytest.mark.parametrize(
    ("policy", "rights", "violation"),
    [
        ({}, Rights(opt_out=True, robots="noai"), ("rights.opt_out", "robots: noai")),
        ({"opted_out": "keep"}, Rights(opt_out=True), None),
        ({}, Rights(consent="refused"), ("rights.consent", "consent refused")),
        ({"consent": "any"}, Rights(consent="refused"), None),
        ({"consent": "required"}, Rights(), ("rights.consent", "consent not stated")),
        ({"consent": "required"}, Rights(consent="form 12"), ("rights.consent", "consent form 12")),
        ({"consent": "required"}, Rights(consent="given"), None),
        ({"licences": ["CC-BY-*"]}, Rights("cc-by-4.0"), None),
        ({"licences": ["CC-BY-*"]}, Rights("GPL-3.0"), ("rights.licence", "licence GPL-3.0")),
        ({"licences": ["MIT"]}, Rights(), ("rights.licence", "licence not stated")),
        ({"licences": ["MIT", "not stated"]}, Rights(), None),
    ],
)
def test_a_policy_names_the_rule_and_the_value(
    policy: dict[str, Any], rights: Rights, violation: tuple[str, str] | None
) -> None:
    assert RightsPolicy(**policy).violation(rights) == violation


def test_rights_in_the_metadata_of_a_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,metadata\nA text.,"{""consent"": ""given"", ""robots"": ""noindex""}"\n')
    (document,) = documents(Source.model_validate(str(tmp_path / "a.csv")))
    assert rights_of(document) == Rights(None, "noindex", consent="given")


def test_every_kind_of_record_is_dropped_by_the_policy_of_its_source(tmp_path: Path) -> None:
    fields = [{"license": "MIT"}, {"license": ["MIT", "ISC"]}, {"consent": False}, {"opt_out": True}, {}]
    kinds = {
        "text": {"text": "A text."}, "prompt": {"prompt": "A question?"},
        "messages": {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]},
    }  # fmt: skip
    for read, kind in ((documents, "text"), (dialogues, "messages"), (prompts, "prompt")):
        path = tmp_path / f"{kind}.jsonl"
        rows = ({"id": str(number), **kinds[kind], **field} for number, field in enumerate(fields))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = Source.model_validate({"path": str(path), "name": "s", "rights": {"licences": ["MIT*"]}})
        drops: list[DroppedRecord] = []
        assert [record.licence for record in read(source, dropped=drops.append)] == ["MIT", "MIT, ISC"]
        assert [(drop.id, drop.reason) for drop in drops] == [
            ("2", "rights.consent"), ("3", "rights.opt_out"), ("4", "rights.licence"),
        ]  # fmt: skip
        stated = Source.model_validate({"path": str(path), "consent": "form 12", "opt_out": True, "licence": "ISC"})
        assert not list(read(stated)), "the opt-out of the source applies to rows that state none"


@pytest.mark.parametrize(
    ("head", "headers", "expected"),
    [
        ("<title>robots and license</title>", {}, {}),
        ('<meta name="robots" content="noindex, NOAI">', {}, {"robots": "noindex, noai"}),
        ('<meta name="googlebot" content="noai">', {}, {}),
        ('<LINK rel="license copyright" href="https://a.example/by">', {}, {"licence": "https://a.example/by"}),
        ('<meta name="tdm-reservation" content="1">', {}, {"opt_out": True}),
        ('<meta name="tdm-reservation" content="0">', {}, {}),
        ('</head><body><meta name="robots" content="noai"><link rel="license" href="x">', {}, {}),
        ('<!-- <meta name="robots" content="noai"> --><script>"<link rel=license href=x>"</script>', {}, {}),
        ('<script>a</script><meta content="noml" name=Robots>', {}, {"robots": "noml"}),
        ("", {"x-robots-tag": "noai, otherbot: noindex"}, {"robots": "noai"}),
        ("", {"tdm-reservation": "1"}, {"opt_out": True}),
    ],
)
def test_a_page_states_its_rights_in_its_head_and_headers(
    head: str, headers: dict[str, str], expected: dict[str, Any]
) -> None:
    html = f"<html><head>{head}</head><body>Text</body></html>"
    assert page_rights(html.encode(), headers) == expected
    assert page_rights(html.encode("utf-16"), headers) == expected


def test_the_pages_of_an_archive_have_their_licence_and_are_dropped_after_an_opt_out(tmp_path: Path) -> None:
    licence = b'<html><head><link rel="license" href="https://a.example/by"></head><body><p>%s</p></body></html>'
    text = b"The garden lies by the old mill, and the river runs past it. " * 9
    pages = [page_record(licence % text), page_record(licence % text, "X-Robots-Tag: noai")]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    drops: list[DroppedRecord] = []
    (page,) = documents(Source.model_validate(str(tmp_path / "a.warc")), dropped=drops.append)
    assert page.licence == "https://a.example/by"
    assert [(drop.reason, drop.detail) for drop in drops] == [("rights.opt_out", "robots: noai")]
