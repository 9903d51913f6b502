"""Generation speed of the engine of Vita and of `generate` in transformers, with one model folder, in fp32.

    python -m bench.generation_speed --rounds 3 [--model FOLDER]

The cases are one prompt and sixteen prompts of different lengths, greedy and sampled. Greedy answers must be identical.
Without --model, a decoder with 6.6M random parameters is created, which hardly ever generates an end token.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed, skip

if TYPE_CHECKING:
    from vita.nn.transformer import Transformer

VITA, PEER = "vita", "transformers"

Generate = Callable[[list[list[int]], bool, int], list[list[int]]]
"""(prompts, greedy, number of tokens) -> new tokens of each prompt."""

TEMPERATURE, TOP_K = 0.8, 50


def vita(folder: Path) -> Generate:
    """Generate with `Engine.generate`."""
    from vita.infer.engine import Engine
    from vita.infer.sampling import Sampling

    engine = Engine.open(folder)

    def generate(prompts: list[list[int]], greedy: bool, tokens: int) -> list[list[int]]:
        options = {} if greedy else {"temperature": TEMPERATURE, "top_k": TOP_K}
        sampling = Sampling.model_validate({"temperature": 0, "max_tokens": tokens} | options)
        return [list(completion.ids) for completion in engine.generate(prompts, sampling)]

    return generate


def transformers(folder: Path) -> Generate:
    """Generate with `model.generate` and its cache; prompts are padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM

    from vita.data.tokens.tokenizer import Tokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.load(folder)
    stops, padding = sorted(tokenizer.stops), tokenizer.document

    def generate(prompts: list[list[int]], greedy: bool, tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        options = {} if greedy else {"temperature": TEMPERATURE, "top_k": TOP_K}
        sequences = model.generate(
            input_ids=torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts]),
            attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
            max_new_tokens=tokens,
            do_sample=not greedy,
            eos_token_id=stops,
            pad_token_id=padding,
            **options,
        )
        return [_until(row[longest:].tolist(), stops) for row in sequences]

    return generate


GENERATORS = {VITA: vita, PEER: transformers}


def worker(name: str, *, folder: Path, tokens: int, threads: int) -> dict[str, Any]:
    """Return the tokens/s of one tool in every case, and its greedy answers."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    generate = GENERATORS[name](folder)
    prompts: list[list[int]] = json.loads((folder / "prompts.json").read_text())
    result: dict[str, Any] = {}
    for count in (1, len(prompts)):
        for greedy in (True, False):
            generate(prompts[:count], greedy, 8)
            start = time.perf_counter()
            answers = generate(prompts[:count], greedy, tokens)
            seconds = time.perf_counter() - start
            result[f"{'greedy' if greedy else 'sampled'}, batch {count}"] = sum(map(len, answers)) / seconds
            if greedy:
                result[f"answers {count}"] = answers
    return result


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Return the tokens/s in each case; raise SystemExit if greedy answers differ."""
    cases = [name for name in results[VITA][0] if not name.startswith("answers")]
    peers = results.get(PEER)
    for result, peer_result in zip(results[VITA], peers or [], strict=False):
        differing = [name for name in result if name.startswith("answers") and result[name] != peer_result[name]]
        if differing:
            raise SystemExit(f"greedy answers differ between {VITA} and {PEER}: {', '.join(differing)}")
    return [
        figure(
            f"generation, {case}",
            [row[case] for row in results[VITA]],
            unit="tokens/s",
            peer=PEER if peers else None,
            peer_values=[row[case] for row in peers] if peers else None,
        )
        for case in cases
    ]


def prepare(folder: Path, model: Path | None, *, batch: int) -> None:
    """Write a model and `batch` prompts of 16 to 47 tokens from the text of the built-in world to `folder`."""
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.data.world import World, WorldSettings
    from vita.nn import hf

    documents = [document.text for document in World.create(WorldSettings()).documents()]
    if model:
        for file in model.iterdir():
            if file.is_file():
                (folder / file.name).symlink_to(file.resolve())
    else:
        tokenizer = Tokenizer.train(documents, vocabulary=1024)
        tokenizer.save(folder)
        hf.save(_random_model(tokenizer.vocabulary, sorted(tokenizer.special_ids)), folder)
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("\n\n".join(documents[: 20 * batch]))
    prompts = [[tokenizer.document, *ids[47 * i : 47 * i + 15 + i * 31 // batch]] for i in range(batch)]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def _until(ids: list[int], stops: list[int]) -> list[int]:
    end = next((position + 1 for position, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _random_model(vocabulary: int, special: list[int]) -> Transformer:
    """Create a model with large logits, so that greedy answers have no near ties, and zero logits for end tokens."""
    import torch

    from bench.trainers import Shape
    from vita.nn.architecture import Architecture
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    shape = Shape()
    architecture = Architecture(
        vocabulary=vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.width // shape.heads,
        feedforward=shape.feedforward,
        context=512,
        tied=False,
        rope_base=10_000.0,
        norm_eps=1e-6,
    )
    model = Transformer(architecture)
    initialize(model, "fan_in", seed=0)
    with torch.no_grad():
        model.head_weight.mul_(4)
        model.head_weight[special] = 0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens/s of generation, side by side.")
    parser.add_argument("--model", type=Path, help="a Vita model folder; a random one is made otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="new tokens for each prompt")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument("--worker", choices=list(GENERATORS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        result = worker(arguments.worker, folder=arguments.folder, tokens=arguments.tokens, threads=arguments.threads)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, arguments.model, batch=arguments.batch)
        call = ["-m", "bench.generation_speed", "--folder", temporary, "--tokens", str(arguments.tokens)]
        call += ["--threads", str(arguments.threads), "--worker"]
        names = [VITA, *([PEER] if installed("transformers") else [])]
        contenders = {name: Contender([*call, name]) for name in names}
        results = in_turns(contenders, rounds=arguments.rounds, threads=arguments.threads)
    if VITA not in results:
        skip("generation", "Vita's own engine failed")
        raise SystemExit(1)
    report(figures(results), save=arguments.save)


if __name__ == "__main__":
    main()
