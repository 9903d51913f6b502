"""Models that read whole texts over HTTP: embeddings, rerank, classify and fill-mask, with the openai client."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.server.releases import model_folder
from tests.server.serving import serving
from vita.data.tokens.text_encoding import with_end_token
from vita.infer.embedding_format import EmbeddingConfig, write_embedding_config
from vita.infer.golden_texts import golden_texts
from vita.infer.text_model import TextModel
from vita.nn import classifier, hf
from vita.nn.classifier import ClassifierSpec, SequenceClassifier
from vita.server.release import create_release
from vita.server.replica.main import open_app
from vita.spine.errors import ModelError
from vita.testing import byte_tokenizer, tiny_model


def classifier_folder(folder: Path, *, labels: tuple[str, ...] = ("no", "yes")) -> Path:
    model = SequenceClassifier.of(tiny_model(std=0.3, context=64), outputs=len(labels))
    classifier.save(model, folder, ClassifierSpec(labels), padding=256)
    with_end_token(byte_tokenizer()).save(folder)
    return folder


def embedding_folder(folder: Path) -> Path:
    model = tiny_model(std=0.3, context=64)
    hf.save(model, folder)
    byte_tokenizer().save(folder)
    write_embedding_config(EmbeddingConfig("mean", length=32), folder, architecture=model.architecture)
    return folder


def masked_folder(folder: Path) -> Path:
    """Save a tiny ModernBERT and its word tokenizer with transformers."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "cat", "is", "furry", "mammal", "."]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    template = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask", "unk")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.ModernBertConfig(
        vocab_size=len(words), max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes
    )
    transformers.ModernBertForMaskedLM(config).save_pretrained(folder)
    return folder


@contextmanager
def served(folder: Path, target: Path, **options: Any) -> Iterator[str]:
    """Serve the release of a model folder, and yield its URL."""
    golden = golden_texts(TextModel.open(folder), ["A cat.", ""])
    release = create_release(folder, target, name="m", version="1", golden=golden, **options)
    with serving(open_app(release)) as url:
        yield url


def error(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400
    return response.json()["error"]


def test_embeddings_over_the_openai_client_have_dimensions_formats_and_usage(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    folder = embedding_folder(tmp_path / "model")
    expected = TextModel.open(folder).embed(["A cat.", "A dog, which barks."])
    with served(folder, tmp_path / "release") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        answer = client.embeddings.create(model="m", input=["A cat.", "A dog, which barks."])
        received = torch.tensor([row.embedding for row in answer.data])
        torch.testing.assert_close(received, expected, atol=1e-6, rtol=1e-5)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 25
        short = client.embeddings.create(model="m", input="A cat.", dimensions=8, encoding_format="float")
        cut = expected[0, :8] / expected[0, :8].norm()
        torch.testing.assert_close(torch.tensor(short.data[0].embedding), cut, atol=1e-6, rtol=1e-5)
        ids = list(b"A cat.")
        by_ids = client.embeddings.create(model="m", input=[ids, ids], encoding_format="float")
        torch.testing.assert_close(torch.tensor(by_ids.data[1].embedding), expected[0], atol=1e-6, rtol=1e-5)
        body = {"model": "m", "input": "A cat.", "encoding_format": "base64"}
        encoded = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"][0]["embedding"]
        assert struct.unpack("<32f", base64.b64decode(encoded)) == pytest.approx(expected[0].tolist(), abs=1e-6)
        assert error(httpx.post(f"{url}/v1/embeddings", json={**body, "dimensions": 64}))["param"] == "dimensions"
        assert error(httpx.post(f"{url}/v1/embeddings", json={**body, "input": "a" * 40}))["code"] == (
            "context_length_exceeded"
        )
        metrics = httpx.get(f"{url}/metrics").text
        assert "vita_prompt_tokens_total" in metrics and 'finish_reason="stop"' in metrics


def test_chat_with_an_embedding_model_is_refused_and_the_error_names_its_endpoints(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    with served(embedding_folder(tmp_path / "model"), tmp_path / "release") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert raised.value.code == "unsupported_endpoint"
        assert "use POST /v1/embeddings and POST /v1/rerank" in str(raised.value)
        refused = error(httpx.post(f"{url}/v1/completions", json={"model": "m", "prompt": "Hi"}))
        assert refused["type"] == "invalid_request_error" and refused["param"] == "model"
        assert error(httpx.post(f"{url}/v1/fill-mask", json={"model": "m", "input": "x"}))["code"] == (
            "unsupported_endpoint"
        )


def test_documents_are_ranked_by_embeddings_or_by_a_classifier_of_pairs(tmp_path: Path) -> None:
    folder = embedding_folder(tmp_path / "embedding")
    documents = ["mu", "A cat.", "something else", "A cat"]
    model = TextModel.open(folder)
    query, *vectors = model.embed(["A cat.", *documents])
    cosines = {index: float(query @ vector) for index, vector in enumerate(vectors)}
    with served(folder, tmp_path / "one") as url:
        body = {"model": "m", "query": "A cat.", "documents": documents, "top_n": 2, "return_documents": True}
        answer = httpx.post(f"{url}/v1/rerank", json=body).json()
        assert [row["index"] for row in answer["results"]] == sorted(cosines, key=lambda index: -cosines[index])[:2]
        assert answer["results"][0]["document"] == {"text": "A cat."} and answer["usage"]["total_tokens"] > 0
        assert answer["results"][0]["relevance_score"] == pytest.approx(1.0, abs=1e-5)
        long = {"model": "m", "query": "A cat.", "documents": ["a" * 200, {"text": "b"}]}
        assert httpx.post(f"{url}/rerank", json=long).status_code == 200  # documents are cut
        assert error(httpx.post(f"{url}/rerank", json={**long, "query": "a" * 200}))["param"] == "query"
        assert error(httpx.post(f"{url}/rerank", json={**body, "documents": []}))["param"] == "documents"
    folder = classifier_folder(tmp_path / "classifier")
    expected = [scores["yes"] for scores in TextModel.open(folder).classify([("A cat.", text) for text in documents])]
    with served(folder, tmp_path / "two") as url:
        answer = httpx.post(f"{url}/v1/rerank", json={**body, "top_n": None}).json()
        scores = [row["relevance_score"] for row in answer["results"]]
        assert scores == sorted(scores, reverse=True) and scores == pytest.approx(sorted(expected, reverse=True))


def test_texts_and_pairs_are_classified_with_the_probability_of_each_label(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model", labels=("bad", "fair", "good"))
    inputs = ["A cat.", {"text": "A cat.", "text_pair": "A dog."}]
    expected = TextModel.open(folder).classify([("A cat.",), ("A cat.", "A dog.")])
    with served(folder, tmp_path / "release", guard={"words": ["poison"]}) as url:
        answer = httpx.post(f"{url}/v1/classify", json={"model": "m", "input": inputs}).json()
        for row, scores in zip(answer["data"], expected, strict=True):
            assert row["scores"] == pytest.approx(scores, abs=1e-6) and row["num_classes"] == 3
            assert row["label"] == max(scores, key=lambda name: scores[name])
        refused = error(httpx.post(f"{url}/v1/classify", json={"model": "m", "input": "some poison"}))
        assert refused["code"] == "content_filter"
        ranked = error(httpx.post(f"{url}/v1/rerank", json={"model": "m", "query": "a", "documents": ["b"]}))
        assert ranked["message"].endswith("does not support POST /v1/rerank; use POST /v1/classify")
        assert error(httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a"}))["param"] == "model"


def test_masked_tokens_have_the_scores_of_the_pipeline_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = masked_folder(tmp_path / "model")
    pipeline = transformers.pipeline("fill-mask", model=str(folder))
    text = "a cat is a furry [MASK] ."
    with served(folder, tmp_path / "release") as url:
        answer = httpx.post(f"{url}/v1/fill-mask", json={"model": "m", "input": [text, "[MASK] cat [MASK]"]}).json()
        (mask,) = answer["data"][0]["masks"]
        for received, expected in zip(mask["tokens"], pipeline(text), strict=True):
            assert received["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert (received["token"], received["token_str"]) == (expected["token"], expected["token_str"])
        for received_mask, expected_mask in zip(answer["data"][1]["masks"], pipeline("[MASK] cat [MASK]"), strict=True):
            scores = [token["score"] for token in received_mask["tokens"]]
            assert scores == pytest.approx([token["score"] for token in expected_mask], abs=1e-5)
        assert "[MASK]" in error(httpx.post(f"{url}/v1/fill-mask", json={"model": "m", "input": "no mask"}))["message"]
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a cat"}).status_code == 200


def test_a_model_that_generates_text_refuses_the_other_endpoints(tmp_path: Path) -> None:
    release = create_release(model_folder(tmp_path / "model"), tmp_path / "release", name="m", version="1")
    with serving(open_app(release)) as url:
        for path, body in {
            "/v1/fill-mask": {"input": "a"},
            "/v1/classify": {"input": "a"},
            "/v1/rerank": {"query": "a", "documents": ["b"]},
        }.items():
            refused = error(httpx.post(f"{url}{path}", json={"model": "m", **body}))
            assert refused["code"] == "unsupported_endpoint" and "/v1/chat/completions" in refused["message"]
        full = httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a cat"}).json()["data"][0]["embedding"]
        body = {"model": "m", "input": "a cat", "dimensions": 4}
        cut = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"][0]["embedding"]
        length = sum(value**2 for value in full[:4]) ** 0.5
        assert cut == pytest.approx([value / length for value in full[:4]], abs=1e-5)


def test_a_release_with_other_numbers_than_its_golden_texts_is_not_served(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "model")
    golden = golden_texts(TextModel.open(folder), ["A cat."])
    wrong = [{**golden[0], "values": [value + 1 for value in golden[0]["values"]]}]
    release = create_release(folder, tmp_path / "release", name="m", version="1", golden=wrong)
    with pytest.raises(ModelError, match="golden text 1"):
        open_app(release)
    assert json.loads((release / "release.json").read_text())["golden"][0]["task"] == "classification"


def test_concurrent_texts_are_computed_together(tmp_path: Path) -> None:
    from vita.infer.text_scheduler import TextScheduler

    model = TextModel.open(embedding_folder(tmp_path / "model"))
    batches: list[int] = []
    compute = model.compute_batch
    model.compute_batch = lambda requests: (batches.append(len(requests)), compute(requests))[1]  # type: ignore[method-assign]
    scheduler = TextScheduler(model, rows=8, queue=100)
    requests = [model_request(model, f"text {number}") for number in range(20)]
    with scheduler._change:  # the thread waits until all are queued
        futures = [future for request in requests for future in scheduler.submit([request])]
    vectors = torch.stack([future.result(60) for future in futures])
    scheduler.close()
    torch.testing.assert_close(vectors, model.embed([f"text {number}" for number in range(20)]), atol=1e-5, rtol=1e-5)
    assert max(batches[:3]) == 8


def model_request(model: TextModel, text: str) -> Any:
    from vita.infer.text_model import TextRequest

    return TextRequest(model.encoder().encode([(text,)])[0], "embedding")
