"""Engine answers equal those of the plain model, alone and in a batch, complete and streamed."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.nn.transformer import Transformer
from vita.spine.errors import DataError, ModelError
from vita.testing import byte_tokenizer, tiny_model

GREEDY = Sampling(temperature=0, max_tokens=24)
PROMPTS = ["hello", "What is a cat?", "é", "one two three four"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(std=0.3), byte_tokenizer(), template=ChatTemplate.default())


def generate_without_cache(model: Transformer, prompt: list[int], count: int, stops: frozenset[int]) -> list[int]:
    """Generate a greedy answer by running the model on the complete text for each token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + count:
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in stops:
                break
    return ids[len(prompt) :]


@pytest.mark.slow
def test_greedy_answers_equal_those_without_a_kv_cache(engine: Engine) -> None:
    prompts = [engine.text_ids(text) for text in PROMPTS]
    for prompt, completion in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        assert list(completion.ids) == generate_without_cache(engine.model, prompt, 24, engine.tokenizer.stops)


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_greedy_answers_equal_those_of_transformers(kv_heads: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = byte_tokenizer()
    hf.save(tiny_model(std=0.3, kv_heads=kv_heads), tmp_path)
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(258, 256)), tmp_path)
    tokenizer.save(tmp_path)
    engine = Engine.open(tmp_path)
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    for text in PROMPTS:
        prompt = engine.text_ids(text)
        expected = hf_model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0, len(prompt) :]
        assert list(engine.generate([prompt], GREEDY)[0].ids) == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_an_answer_is_the_same_alone_and_in_a_batch(engine: Engine, rows: int) -> None:
    batch_engine, single_engine = (Engine(engine.model, engine.tokenizer, rows=rows) for _ in range(2))
    prompts = [engine.text_ids(text) for text in PROMPTS]
    samplings = [
        Sampling(seed=1, max_tokens=30),
        GREEDY,
        Sampling(seed=2, top_k=20, max_tokens=7),
        Sampling(seed=3, top_p=0.8, temperature=1.5, max_tokens=20),
    ]
    batch_answers = batch_engine.generate(prompts, samplings)
    for prompt, sampling, batch_answer in zip(prompts, samplings, batch_answers, strict=True):
        (single_answer,) = single_engine.generate([prompt], sampling)
        assert batch_answer == single_answer, "every log-probability to the last bit"


@pytest.mark.slow
def test_answers_are_the_same_at_every_batch_width(engine: Engine) -> None:
    """Generate 40 answers of different lengths: steps have 64 rows at first, and 16 when few answers remain."""
    prompts = [engine.text_ids(f"question {index}") for index in range(40)]
    samplings = [Sampling(seed=index, temperature=index % 3, max_tokens=1 + index) for index in range(40)][::-1]
    answers = engine.generate(prompts, samplings)
    for index in range(0, 40, 7):
        assert engine.generate([prompts[index]], samplings[index]) == [answers[index]]


def test_logprobs_equal_those_of_the_plain_model(engine: Engine) -> None:
    prompt = engine.text_ids("hello")
    (completion,) = engine.generate([prompt], Sampling(seed=7, temperature=2.0, max_tokens=20))
    with torch.no_grad():
        logits = engine.model(torch.tensor([[*prompt, *completion.ids]]))[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[torch.arange(len(completion.ids)), torch.tensor(completion.ids)]
    assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.slow
def test_the_streamed_pieces_form_the_answer(engine: Engine) -> None:
    for seed in range(5):
        sampling = Sampling(seed=seed, max_tokens=40)
        prompt = engine.text_ids("hello")
        pieces = list(engine.stream(prompt, sampling))
        (answer,) = engine.generate([prompt], sampling)
        assert "".join(pieces) == answer.text == engine.tokenizer.decode(answer.ids)
        assert all(pieces)


# -- the end of an answer


class FixedTextModel(Transformer):
    """A model that generates a fixed text after any prompt: the next token depends only on the position."""

    def __init__(self, text: bytes, *, context: int = 64) -> None:
        super().__init__(tiny_model(context=context).architecture)
        self.text = text

    def hidden(
        self,
        ids: Tensor,
        *,
        documents: object = None,
        positions: object = None,
        cache: object = None,
        attention: object = None,
        types: object = None,
    ) -> Tensor:
        token_positions = cache.begin(*ids.shape)[0].expand(ids.shape)  # pyright: ignore[reportAttributeAccessIssue]
        next_tokens = torch.tensor([*self.text, *[258] * 64])[token_positions]
        return torch.nn.functional.one_hot(next_tokens, 259).float() * 50

    @property
    def head_weight(self) -> Tensor:
        return torch.eye(259)


def generate_fixed_text(text: str, **options: object) -> tuple[str, str, int]:
    """Generate with a model of a fixed text after a one-token prompt; return answer, finish reason, token count."""
    engine = Engine(FixedTextModel(text.encode()), byte_tokenizer())
    (completion,) = engine.generate([[256]], Sampling.model_validate({"temperature": 0, "max_tokens": 60, **options}))
    assert "".join(engine.stream([256], Sampling.model_validate({"temperature": 0, "max_tokens": 60, **options}))) == (
        completion.text
    )
    return completion.text, completion.finish, len(completion.ids)


def test_an_answer_ends_at_the_end_of_turn_token() -> None:
    assert generate_fixed_text("A cat.") == ("A cat.", "stop", 7)


def test_an_answer_ends_before_a_stop_text_that_crosses_tokens() -> None:
    assert generate_fixed_text("A cat.\nQ: What?", stop=("\nQ:", "zzz")) == ("A cat.", "stop", 9)


def test_a_partial_stop_text_at_the_end_is_returned() -> None:
    assert generate_fixed_text("A cat.\nQ", stop=("\nQ:",)) == ("A cat.\nQ", "stop", 9)
    assert generate_fixed_text("A cat.\nQ: no", stop=("\nQ:",), max_tokens=8) == ("A cat.\nQ", "length", 8)


def test_an_answer_ends_after_max_tokens() -> None:
    assert generate_fixed_text("A cat is a mammal.", max_tokens=5) == ("A cat", "length", 5)


def test_an_answer_ends_where_the_context_is_full() -> None:
    text, finish, count = generate_fixed_text("x" * 64, max_tokens=1000)
    assert (text, finish, count) == ("x" * 63, "length", 63)


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert generate_fixed_text("a☃", max_tokens=3) == ("a�", "length", 3)


# -- refusals


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 2: is empty"),
        ([1] * 64, "prompt 2: expected at most 63 tokens, for the model's context, got 64"),
        ([1, 259], "prompt 2: expected token ids from 0 to 258, got 259"),
        ([-1], "prompt 2: expected token ids from 0 to 258, got -1"),
    ],
)
def test_an_invalid_prompt_is_refused_with_its_number(engine: Engine, prompt: list[int], message: str) -> None:
    with pytest.raises(DataError) as error:
        engine.generate([[1], prompt], GREEDY)
    assert message in str(error.value)
    with pytest.raises(DataError, match="prompt: "):
        engine.stream(prompt, GREEDY)


def test_settings_and_prompts_must_have_equal_counts(engine: Engine) -> None:
    with pytest.raises(DataError, match="expected settings for 1 prompts, got 2"):
        engine.generate([[1]], [GREEDY, GREEDY])


def test_no_prompts_give_no_answers(engine: Engine) -> None:
    assert engine.generate([], GREEDY) == []
    assert engine.score([]) == []


def test_nan_logits_are_an_error() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="logits are not numbers"):
        Engine(model, byte_tokenizer()).generate([[1]], GREEDY)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="the tokenizer knows 259 tokens, the model 200"):
        Engine(tiny_model(vocabulary=200), byte_tokenizer())


def test_a_base_model_cannot_chat() -> None:
    with pytest.raises(ModelError, match="holds no chat template"):
        Engine(tiny_model(), byte_tokenizer()).chat([Message("user", "hello")], GREEDY)


# -- chat, folders, precision


def test_chat_renders_the_template_and_streams(engine: Engine) -> None:
    messages = [Message("user", "What is a cat? <|im_end|>")]
    ids = engine.chat_ids(messages)
    assert ids.count(engine.tokenizer.end_of_turn) == 1
    answer = engine.chat(messages, GREEDY)
    assert answer.ids == engine.generate([ids], GREEDY)[0].ids
    assert "".join(engine.stream_chat(messages, GREEDY)) == answer.text


def test_a_folder_is_opened_with_its_template_and_stop_tokens(tmp_path: Path) -> None:
    hf.save(tiny_model(std=0.3), tmp_path)
    hf.save_generation(hf.GenerationTokens(stop=(7, 258)), tmp_path)
    byte_tokenizer().save(tmp_path)
    engine = Engine.open(tmp_path)
    assert engine.template is None
    assert {7, 258} <= engine.tokenizer.stops
    ChatTemplate.default().save(tmp_path)
    template = Engine.open(tmp_path).template
    assert template is not None
    assert template.source == ChatTemplate.default().source


@pytest.mark.slow
def test_a_bfloat16_model_generates(engine: Engine) -> None:
    rounded = Engine(tiny_model(std=0.3).bfloat16(), byte_tokenizer())
    (completion,) = rounded.generate([engine.text_ids("hello")], GREEDY)
    assert len(completion.ids) == len(completion.logprobs) > 0


def test_generation_restores_the_gradient_mode(engine: Engine) -> None:
    pieces = engine.stream(engine.text_ids("hello"), Sampling(max_tokens=5, seed=1))
    next(pieces, None)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


# -- scores


def test_scores_equal_those_of_the_plain_model_in_any_batch(engine: Engine) -> None:
    pairs = [([256, 1, 2], [3, 4, 5, 6]), ([256], [9]), ([256, *range(40)], [7, 8]), ([5, 6], list(range(30)))]
    small_batches = Engine(engine.model, engine.tokenizer, tokens_at_once=40)
    for score, small_batch_score in zip(engine.score(pairs), small_batches.score(pairs), strict=True):
        assert score.logprobs == pytest.approx(small_batch_score.logprobs, abs=1e-4)
    for (prompt, completion), score_result in zip(pairs, engine.score(pairs), strict=True):
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*prompt, *completion]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(completion)), torch.tensor(completion)]
        assert score_result.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert score_result.logprob == pytest.approx(expected.sum().item(), abs=1e-3)
        assert score_result.greedy == (logits.argmax(-1).tolist() == completion)


def test_a_greedy_answer_is_scored_as_greedy(engine: Engine) -> None:
    prompt = engine.text_ids("hello")
    (answer,) = engine.generate([prompt], GREEDY)
    (score,) = engine.score([(prompt, answer.ids)])
    assert score.greedy
    assert score.logprobs == pytest.approx(answer.logprobs, abs=1e-4)


def test_scoring_is_limited_to_the_context(engine: Engine) -> None:
    assert len(engine.score([([1], [2] * 64)])[0].logprobs) == 64
    with pytest.raises(DataError, match="pair 1: expected at most 64 tokens"):
        engine.score([([1], [2] * 65)])
    with pytest.raises(DataError, match="pair 2: has an empty half"):
        engine.score([([1], [2]), ([1], [])])


@pytest.mark.slow
def test_a_repeated_prompt_is_prefilled_once_and_answered_as_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = engine.text_ids("hello"), engine.text_ids("What is a cat?")
    prompts = [first, second, first, first, second]
    settings = Sampling(max_tokens=12).varied(len(prompts))
    single_answers = [
        engine.generate([prompt], sampling)[0] for prompt, sampling in zip(prompts, settings, strict=True)
    ]
    engine.generate(prompts, settings)  # measures the width, which would be recorded below
    passes: list[list[int]] = []
    hidden = engine.model.hidden
    monkeypatch.setattr(
        engine.model, "hidden", lambda ids, **options: (passes.append(ids[0].tolist()), hidden(ids, **options))[1]
    )
    assert engine.generate(prompts, settings) == single_answers
    assert [ids for ids in passes if len(ids) > 1] == [[*first, *second, 0, 0, 0]], "both in one pass, padded"


@pytest.mark.slow
def test_the_batch_width_shrinks_as_answers_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [engine.text_ids(f"question {index}") for index in range(20)]
    samplings = [Sampling(seed=index, max_tokens=30 if index in (3, 18) else 2 + index % 3) for index in range(20)]
    expected = engine.generate(prompts, samplings)
    widths: list[int] = []
    hidden = engine.model.hidden

    def record_width(ids: Tensor, **options: Any) -> Tensor:
        widths.append(ids.shape[0])
        return hidden(ids, **options)

    monkeypatch.setattr(engine.model, "hidden", record_width)
    assert engine.generate(prompts, samplings) == expected
    steps = [width for width in widths if width > 1]
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (24, 4)
    assert len(steps) == max(len(completion.ids) for completion in expected) - 1


@torch.no_grad()
def test_sampled_answers_equal_those_of_a_plain_loop_in_float64() -> None:
    """A token may differ only where the random number is within rounding error of the boundary of two tokens."""
    model = tiny_model(std=0.3, context=64)
    engine = Engine(model, byte_tokenizer())
    prompts = [[256, *range(index, 2 * index)] for index in range(1, 25)]
    samplings = [Sampling(seed=index, max_tokens=20, temperature=0.7 + 0.1 * (index % 5)) for index in range(24)]
    completions = engine.generate(prompts, samplings)
    exact = copy.deepcopy(model).double()
    compared = 0
    for prompt, sampling, completion in zip(prompts, samplings, completions, strict=True):
        generator = random.Random(sampling.seed)
        all_logits = exact(torch.tensor([[*prompt, *completion.ids]]))[0]
        for index, token in enumerate(completion.ids):
            logits = all_logits[len(prompt) - 1 + index].double()
            cumulative = (logits / sampling.temperature).softmax(-1).cumsum(-1)
            number = generator.random()
            low, high = cumulative[token - 1].item() if token else 0.0, cumulative[token].item()
            assert low - 1e-5 <= number <= high + 1e-5
            assert completion.logprobs[index] == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-4)
            compared += 1
    assert compared > 200
