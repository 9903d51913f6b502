"""A synthetic life for tests: artifacts in a store, runs and state transitions in a ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vita.cards.life_record import remember
from vita.gates import decisions
from vita.gates.people import add_person
from vita.gates.policy import Policy, ReportEvidence
from vita.monitoring import request_log
from vita.nn.families import write_config
from vita.reporting import REPORT_FILE
from vita.reporting.figures import ReportContent
from vita.spine import signing
from vita.spine.config import build
from vita.spine.ledger import Ledger
from vita.spine.store import Artifact, Draft, Store
from vita.stages import kinds
from vita.stats.intervals import Interval, wilson
from vita.testing import tiny_architecture

KINDS = {value.kind: value for value in vars(kinds).values() if isinstance(value, type) and issubclass(value, Artifact)}
EVIL = "<script>alert('x')</script> & |bar|"
"""Untrusted text with markup."""


class Life:
    """A life whose steps tests add one by one."""

    def __init__(self, folder: Path, name: str = "cat") -> None:
        self.name, self.folder = name, folder
        self.store, self.ledger = Store(folder / "store"), Ledger(folder / "ledger.db")

    def step(
        self, name: str, kind: str, *, stage: str | None = None, files: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None, inputs: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None, record: Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Record a step and return the digest of its artifact."""
        draft = self.folder / "drafts" / f"{name}-{time.monotonic_ns()}"
        for path, content in {"own.txt": name, **(files or {})}.items():
            target = draft / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content if isinstance(content, str) else json.dumps(content))
        artifact = self.store.commit(Draft(KINDS[kind], draft, facts or {}))
        run = self.ledger.claim(
            f"key of {name} {artifact.digest} {time.monotonic_ns()}", life=self.name, step=name, stage=stage or name,
            version=1, config=config or {}, inputs=inputs or {},
        )  # fmt: skip
        assert isinstance(run, int)
        record_fields = {"seconds": 12.5, "machine": {"device": "cpu", "threads": 2, "world_size": 1}, **(record or {})}
        self.ledger.finish(run, artifact=artifact.digest, record=record_fields)
        self.ledger.name(f"{self.name}/{name}", artifact.digest)
        return artifact.digest

    def report(self, name: str, model: str, figures: Mapping[str, Any], *, stage: str = "test") -> str:
        """Record a report; `figures` are group -> name -> metric -> Interval."""
        content = ReportContent.of(stage, figures, model=model).model_dump(mode="json")
        return self.step(name, "report", stage=stage, files={REPORT_FILE: content}, inputs={"model": model})


def register_person(ledger: Ledger, folder: Path, name: str) -> Any:
    """Register a person with a new key and return the private key."""
    key = signing.load_or_create_key(folder / "keys" / f"{name}.pem")
    add_person(ledger, name, key.public_key())
    return key


def first_half(life: Life) -> str:
    """Record the steps from a plan to a chat model, and return that model."""
    shape = tiny_architecture()
    blueprint = {
        "prediction": {"bits_per_byte": {"value": 1.0, "low": 0.8, "high": 1.2}, "tokens": 1000, "memory": {"total": 1}}
    }
    plan = life.step(
        "design", "blueprint", files={"blueprint.json": blueprint}, facts={"parameters": 1000, "tokens": 1000}
    )
    corpus = life.step(
        "curate", "corpus",
        facts={
            "documents": {"train": 90, "dropped": 10}, "bytes": {"train": 900}, "dropped": {"duplicate": 10},
            "licences": {"CC0-1.0": {"documents": 90, "bytes": 900}},
            "sources": {EVIL: {"documents": 90, "bytes": 900}},
        },
    )  # fmt: skip
    tokens_report = ReportContent.of("tokenize", details={"train": {"sources": {EVIL: {"tokens": 400}}}})
    tokens = life.step(
        "tokenize", "tokens", inputs={"corpus": corpus}, facts={"train_tokens": 400, "bytes_per_token": 2.2},
        files={REPORT_FILE: tokens_report.model_dump(mode="json")},
    )  # fmt: skip
    model = {"config.json": write_config(shape)}
    curve = "".join(json.dumps({"step": step, "loss": 5.0 / step}) + "\n" for step in range(1, 5))
    base = life.step(
        "pretrain", "model", inputs={"tokens": tokens, "blueprint": plan}, config={"seed": 7},
        files={**model, "report/metrics.jsonl": curve},
        facts={"steps": 4, "tokens": 1000, "heldout_bits_per_byte": 0.9}, record={"tokens_per_second": 99.0},
    )  # fmt: skip
    life.report("test_base", base, {"world": {"world": {"held_out/accuracy": wilson(1, 40)}}})
    sources = [{"path": {"content": "f" * 64}, "licence": "MIT"}]
    chat = life.step(
        "sft", "model", inputs={"model": base, "tokens": tokens}, files=model, config={"sources": sources, "seed": 7},
        facts={"chat": True, "dialogues": 30, "heldout_accuracy": 0.9, "heldout_accuracy_before": 0.5, "steps": 3},
    )  # fmt: skip
    life.report("test_chat", chat, {"world": {"world": {"held_out/accuracy": wilson(39, 40)}}})
    return chat


def second_half(life: Life, chat: str) -> str:
    """Record preference tuning, an attack, safety tuning, a gate, a service, feedback and the retirement.

    Return the last model.
    """
    comparison_figures = {
        "reward/before": Interval(-0.2, -0.3, -0.1, 50), "reward/after": Interval(0.5, 0.4, 0.6, 50),
        "accuracy/before": wilson(48, 50), "accuracy/after": wilson(47, 50), "win_rate": wilson(40, 50),
    }  # fmt: skip
    shape = {"config.json": write_config(tiny_architecture())}
    comparison = ReportContent.of("dpo", {"comparison": {"comparison": comparison_figures}}, baseline=chat)
    comparison_file = {f"report/{REPORT_FILE}": comparison.model_dump(mode="json")}
    tuned_model = life.step(
        "wiser", "model", stage="dpo", inputs={"model": chat}, files=shape | comparison_file, facts={"chat": True}
    )
    rates = {"attack_success_rate": wilson(30, 60), "over_refusal": wilson(1, 30)}
    life.report("attack", tuned_model, {"redteam": {"redteam": rates}, "probes": {"encoded": rates}}, stage="redteam")
    safe_model = life.step(
        "safety_tuning", "model", stage="sft", inputs={"model": tuned_model}, files=shape, facts={"chat": True}
    )
    rates = {"attack_success_rate": wilson(2, 60), "over_refusal": wilson(2, 30)}
    second_attack = life.report("attack_again", safe_model, {"redteam": {"redteam": rates}}, stage="redteam")
    limits = (("attack_success_rate", 0.2), ("over_refusal", 0.1))
    bars = [{"report": "attack_again", "figure": f"redteam/{name}", "at_most": limit} for name, limit in limits]
    policy = build(Policy, {"model": "safety_tuning", "bars": bars}, where="policy")
    decisions.record_policy(life.ledger, f"{life.name}/release", policy)
    evidence = {"attack_again": ReportEvidence(life.store.open(second_attack).path, second_attack, time.time() + 1)}
    key = register_person(life.ledger, life.folder, "Ada")
    expires = time.time() + 99
    decisions.waive(life.ledger, f"{life.name}/release", safe_model, who="Ada", key=key, reason=EVIL, expires=expires)
    decisions.evaluate_gate(life.ledger, f"{life.name}/release", policy, model=safe_model, evidence=evidence)
    release_files = {"release.json": {"name": "cat", "version": "1", "model": safe_model, "guard": None}}
    release_facts = {"name": "cat", "version": "1"}
    release = life.step("release", "release", inputs={"model": safe_model}, facts=release_facts, files=release_files)
    life.ledger.move(safe_model, "serving", who="release", why="released as cat:1")
    row = {"service": "cat", "model": safe_model, "release": release, "who": "Ada"}
    with life.ledger.transaction() as database:
        for version, action, share in (("cat:1", "start", 1.0), ("cat:2", "canary", 0.2), ("cat:1", "share", 0.8)):
            database.execute(
                sa.insert(request_log.deployments).values(**row, version=version, action=action, share=share, at=1e9)
            )
        for value in (1, 1, -1):
            feedback_row = {
                "request": "r",
                "model": safe_model,
                "kind": "thumb",
                "value": value,
                "content": {},
                "consent": True,
            }
            database.execute(sa.insert(request_log.feedback).values(**feedback_row, at=1e9))
    life.ledger.move(safe_model, "retired", who="retire", why=EVIL, successor=chat)
    life.step("strange", "archive", stage="from_elsewhere", facts={"odd": {"deep": [1, None]}})
    return safe_model


def record_answers(life: Life, models: Mapping[str, list[str]]) -> None:
    """Record the data that `vita live` records at its end."""
    names = [name.removeprefix(f"{life.name}/") for name in life.ledger.all_names()]
    remember(life.ledger, life.name, about=EVIL, steps=names, questions=["What is a cat?"], answers=models)
