"""The files, typed input and exceptions of each documentation page. A page without an entry continues the README."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import zstandard

from tests.docs import material
from tests.docs.reader import Page


def readme_files(folder: Path) -> None:
    """The files that the README's example reads."""
    material.write_notes(folder / "notes", files=400)
    material.write_dialogues(folder / "conversations.jsonl")
    material.write_pairs(folder / "pairs.jsonl")
    material.write_prompts(folder / "questions.jsonl", rows=slice(320, 324))


def law_files(folder: Path) -> None:
    """A domain as JSON lines and as one text file."""
    rows = [{"text": text} for text in list(material.docstrings().values())[:400] if len(text.split()) > 30]
    path = folder / "law.jsonl"
    material.write_rows(path, iter(rows))
    (folder / "law").mkdir()
    (folder / "law" / "part-0.jsonl.zst").write_bytes(zstandard.compress(path.read_bytes()))
    path.unlink()
    (folder / "law.txt").write_text("\n\n".join(" ".join(row["text"].split()) for row in rows), encoding="utf-8")


def token_files(folder: Path) -> None:
    """Files of tokens, and their tokenizer."""
    from vita.data.tokens.token_files import write_token_file
    from vita.testing import byte_tokenizer

    byte_tokenizer().save(folder / "tokenizer")
    (folder / "tokens").mkdir()
    for name in ("train_1", "train_2", "val_0"):
        write_token_file(folder / "tokens" / f"{name}.bin", [256, *f"The file {name}. ".encode()] * 20)


def long_files(folder: Path) -> None:
    """Long documents as JSON lines."""
    texts = list(material.docstrings().values())
    rows = [{"text": "\n\n".join(texts[start : start + 8])} for start in range(0, 160, 8)]
    material.write_rows(folder / "long.jsonl", iter(rows))


def book_files(folder: Path) -> None:
    """Compressed text files, some in a subfolder."""
    texts = [text for text in material.docstrings().values() if len(text.split()) > 200]
    for number, text in enumerate(texts[:20]):
        path = folder / "books" / ("old" if number % 2 else "") / f"book-{number}.txt.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()))


def curation_files(folder: Path) -> None:
    """Compressed text files, and texts with labels of their quality."""
    book_files(folder)
    texts = [text for text in material.docstrings().values() if len(text.split()) > 40][:60]
    good = [{"text": text, "label": 1} for text in texts]
    bad = [{"text": " ".join(sorted(text.split())), "label": 0} for text in texts]
    material.write_rows(folder / "labels.jsonl", iter([*good, *bad]))


def other_model(folder: Path) -> None:
    """The folder of a Hugging Face model, and held-out text."""
    models = [path.parent for path in folder.glob("vita-store/folders/*/chat_template.jinja")]
    shutil.copytree(models[0], folder / "other-model", ignore=shutil.ignore_patterns("report"))
    (folder / "news.txt").write_text("\n\n".join(list(material.docstrings().values())[-40:]), encoding="utf-8")


def prompt_files(folder: Path) -> None:
    """Prompts with their answers, and prompts as plain text."""
    material.write_prompts(folder / "prompts.jsonl", rows=slice(320, 350))
    material.write_prompts(folder / "users.jsonl", rows=slice(350, 380))
    questions = [question for question, _ in material.answers()[380:384]]
    (folder / "prompts.txt").write_text("\n".join(questions) + "\n", encoding="utf-8")


def model_folder(folder: Path) -> None:
    """The folder of a Hugging Face model."""
    models = [path.parent for path in folder.glob("vita-store/folders/*/chat_template.jinja")]
    shutil.copytree(models[0], folder / "models" / "mine", ignore=shutil.ignore_patterns("report"))


SCALING = "vita scaling notes/ --budget 8e11 --ladder 2e11,4e11 --sizes 3 --vocabulary 300 --context 32 --check"
LADDER = "it trains for minutes; tests/cli/test_scaling.py runs it"
REHEARSAL = (
    "vita live speedrun --set variables.data=shards --set variables.tokenizer=tokenizer --set "
    "variables.validation_tokens=8192 --set variables.target=5 --set settings.vocabulary=1024 --set "
    "settings.context=128 --set design.depth=2 --set design.width=128 --set design.tokens_per_step=2048 --set "
    "design.steps=60 --set pretrain.eval_every=20"
)
RACE = "it trains nine models; tests/design/test_race.py runs a smaller one"
SUITE = "it runs the test suite, which contains this test"
LIFE = "it installs Vita and trains for ten minutes"
HUB = "it needs the Hugging Face Hub; tests/formats/test_open_weight_example.py runs it with a local one"
PUSH = "it needs the Hugging Face Hub; tests/formats/test_export.py runs it with a local one"
HARNESS = """\
lm_eval --model local-completions --tasks lambada_openai \\
    --model_args model=mine,base_url=http://127.0.0.1:8000/v1/completions,max_length=512"""
QUESTION = {"vita chat": "What did I write about tea?\n"}

EMBEDDER = "it needs an embedding model; tests/cli/test_deduplicate.py runs it"
REWRITER = "it needs a model that follows instructions; tests/cli/test_rephrase.py runs it"

DRIFT = "it needs prompts of users; tests/monitoring/test_drift.py runs it"
PROPOSAL = "it needs a failed re-test; tests/gates/test_proposals.py runs it"

SITE_COMMANDS = (
    "vita --ledger postgresql://vita@db/vita serve mine/release --site paris --region eu --host 10.0.1.1",
    "vita --ledger postgresql://vita@db/vita serve mine/release --site oslo --region eu --host 10.0.2.1",
    "vita serve mine/release --site paris --region eu --host 10.0.1.1 --credentials paris --join-port 9000 "
    "--replicas 0",
    "vita replica DIGEST --store s3://models --join https://10.0.1.1:9000 --credentials berlin --host 10.0.1.2 "
    "--region eu",
)
"""Commands for hosts with these addresses."""

PAGES = {
    "README.md": Page(
        files=readme_files,
        from_readme=False,
        typed=QUESTION,
        not_run={
            "make life": LIFE,
            "make test": SUITE,
            "vita live helpdesk.yaml": HUB,
            "vita trace helpdesk/merge": HUB,
            "vita chat helpdesk/merge": HUB,
            "vita export helpdesk/merge --to gguf --quant q8_0": HUB,
        },
    ),
    "CONTRIBUTING.md": Page(
        from_readme=False,
        not_run={
            "make test": SUITE,
            "make test-slow": SUITE,
            "make test-gpu": "it needs a CUDA device",
            "make format": "it changes the files of the checkout",
        },
    ),
    "docs/export.md": Page(
        not_run={
            'vita push mine/dpo acme/mine --private --ungated "a first look"': PUSH,
        }
    ),
    "docs/lives.md": Page(files=readme_files, from_readme=False),
    "docs/review.md": Page(files=prompt_files, typed={"vita review rate": "1\n2\nt\nq\n"}),
    "docs/serving.md": Page(not_run={HARNESS: "it downloads the task; tests/server/test_harness.py runs a local one"}),
    "docs/deploying.md": Page(
        not_run={
            "vita deploy mine/release --target ray --out deployments/ray --set replicas=2 --set cpus=1 --apply": (
                "it needs Ray Serve; tests/deploy/test_ray.py runs it"
            )
        }
    ),
    "docs/sites.md": Page(
        from_readme=False, not_run=dict.fromkeys(SITE_COMMANDS, "tests/server/test_three_sites.py runs several hosts")
    ),
    "docs/monitoring.md": Page(
        not_run={
            "vita drift reference mine/release --prompts prompts.jsonl": DRIFT,
            "vita drift check mine": DRIFT,
            "vita proposals show 1": PROPOSAL,
            'vita proposals accept 1 --by "Ada Lovelace"': PROPOSAL,
            'vita proposals decline 1 --by "Ada Lovelace" --reason "the test data changed"': PROPOSAL,
            "vita serve mine/release --set trace_endpoint=http://collector:4318/v1/traces": (
                "it needs a collector; tests/server/test_tracing.py runs one"
            ),
            "vita fleet page": "it needs a running service; tests/server/test_operator_browser.py runs it",
        }
    ),
    "docs/long-context.md": Page(files=long_files),
    "docs/experiments.md": Page(
        not_run={
            "python -m bench.pretraining --shapes 256x6 --rounds 2 --threads 1 --seconds 5 --warm 1 "
            "--nanochat ../nanochat": "it measures for minutes and needs another program",
        }
    ),
    "docs/speedrun.md": Page(
        from_readme=False,
        not_run={
            "vita live speedrun": "it needs a GPU and downloads 4 GB",
            REHEARSAL: "tests/cli/test_speedrun.py runs it at a smaller size",
            "vita show speedrun/pretrain": "it shows the result of the command above",
        },
    ),
    "docs/stages/import_tokens.md": Page(files=token_files, from_readme=False),
    "docs/scaling.md": Page(
        not_run={
            SCALING: LADDER,
            "vita design --depth 2 --timed-steps 0 --law vita-store/lives/scaling/law.json": LADDER,
        }
    ),
    "docs/stages/adapt.md": Page(files=law_files),
    "docs/stages/upcycle.md": Page(files=law_files),
    "docs/stages/adopt.md": Page(
        files=model_folder,
        not_run={
            "vita adopt Qwen/Qwen3-0.6B": HUB,
            "vita live life.yaml": HUB,
            "vita trace helpdesk/sft": HUB,
            "vita chat helpdesk/sft": HUB,
            "vita export helpdesk/sft --to gguf --quant q8_0": HUB,
            "vita adopt Qwen/Qwen3-0.6B --revision c1899de289a04d12100db370d81485cdf75e47ca": HUB,
        },
    ),
    "docs/stages/curate.md": Page(
        files=curation_files,
        not_run={
            "vita curate notes/ --out on-ray --ray local": "it needs Ray; tests/data/curation/test_ray_pool.py runs it",
        },
    ),
    "docs/stages/deduplicate.md": Page(
        not_run={
            "vita deduplicate mine/contrastive --corpus mine/curate --life mine --threshold 0.97": EMBEDDER,
            "vita show mine/deduplicate": EMBEDDER,
        }
    ),
    "docs/stages/rephrase.md": Page(
        not_run={
            "vita rephrase mine/dpo --corpus mine/curate --life mine": REWRITER,
            "vita rephrase --endpoint '{url: \"http://127.0.0.1:8000/v1\", model: mine, key_variable: MINE_KEY}' "
            "--life mine": REWRITER,
            "vita show mine/rephrase": REWRITER,
        }
    ),
    "docs/stages/dpo.md": Page(typed=QUESTION),
    "docs/stages/pretrain.md": Page(not_run={"vita race race.yaml --output life-winner.yaml": RACE}),
    "docs/stages/redteam.md": Page(files=other_model),
    "docs/stages/refine.md": Page(files=prompt_files),
    "docs/stages/rlhf.md": Page(files=prompt_files),
    "docs/stages/sft.md": Page(typed=QUESTION),
    "docs/stages/test.md": Page(files=other_model),
    "docs/stages/pilot.md": Page(files=prompt_files),
}
