"""Talking with a model: `vita chat`, `vita generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from vita.cli.app import app, workspace
from vita.cli.workspace import Workspace
from vita.spine.errors import ConfigError
from vita.spine.store import Artifact

ModelArgument = Annotated[str, typer.Argument(help="A name (cat/sft), a digest, or a Hugging Face model folder.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token each time.")]
TopK = Annotated[int, typer.Option(help="Only the k likeliest tokens; 0 for all.")]
TopP = Annotated[float, typer.Option(help="Only the likeliest tokens that make up this probability.")]
MaxTokens = Annotated[int, typer.Option(help="The longest answer, in tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]


@app.command()
def chat(
    ctx: typer.Context,
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
) -> None:
    """Talk with a model; an empty line or Ctrl-D ends, `/new` begins again."""
    from vita.data.records import Message

    here = workspace(ctx)
    engine = _engine(here, model)
    sampling = _sampling(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, seed=seed)
    opening = [Message("system", system)] if system else []
    messages = list(opening)
    asking = sys.stdin.isatty()
    while True:
        try:
            said = input("you> " if asking else "")
        except EOFError:
            break
        if not said.strip():
            break
        if said.strip() == "/new":
            messages = list(opening)
            continue
        messages.append(Message("user", said))
        answer = ""
        for piece in engine.stream_chat(messages, sampling):
            answer += piece
            typer.echo(piece, nl=False)
        typer.echo()
        messages.append(Message("assistant", answer))


@app.command()
def generate(
    ctx: typer.Context,
    model: ModelArgument,
    prompt: Annotated[list[str] | None, typer.Argument(help="Text to go on from; standard input when absent.")] = None,
    as_chat: Annotated[bool, typer.Option("--chat", help="Put the prompt in the chat template.")] = False,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    max_tokens: MaxTokens = 128,
    seed: Seed = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with tokens and log-probabilities.")] = False,
) -> None:
    """Let a model go on from a text; several prompts are one batch."""
    here = workspace(ctx)
    prompts = list(prompt or ([sys.stdin.read()] if not sys.stdin.isatty() else []))
    if not prompts:
        raise ConfigError("generate", "no prompt was given", hint='vita generate MODEL "Once upon a time"')
    engine = _engine(here, model)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    sampling = _sampling(**how, stop=tuple(stop or ()))
    ids = [engine.chat_ids([_user(text)]) if as_chat else engine.text_ids(text) for text in prompts]
    if len(ids) == 1 and not as_json:
        for piece in engine.stream(ids[0], sampling):
            typer.echo(piece, nl=False)
        typer.echo()
        return
    for text, completion in zip(prompts, engine.generate(ids, sampling), strict=True):
        if as_json:
            answer = {"prompt": text, "text": completion.text, "finish": completion.finish, "ids": list(completion.ids)}
            typer.echo(json.dumps({**answer, "logprobs": [round(float(value), 6) for value in completion.logprobs]}))
        else:
            here.console.print(f"[bold]{text}[/]{completion.text}", soft_wrap=True)


def answers(model: Artifact, questions: Sequence[str]) -> list[str]:
    """Each question's answer: in the chat template by a tuned model; a base model goes on from it, by chance."""
    from vita.infer.engine import Engine

    engine = Engine.open(model.path)
    tuned = bool(model.facts.get("chat"))
    sampling = _sampling(temperature=0.0 if tuned else 0.8, max_tokens=48 if tuned else 24)
    prompts = [engine.chat_ids([_user(text)]) if tuned else engine.text_ids(text) for text in questions]
    return [completion.text.strip() for completion in engine.generate(prompts, sampling)]


def _user(text: str) -> Any:
    from vita.data.records import Message

    return Message("user", text)


def _engine(here: Workspace, model: str) -> Any:
    from vita.infer.engine import Engine
    from vita.stages.kinds import Model

    folder = Path(model) if Path(model).is_dir() else here.find(model, Model).path
    return Engine.open(folder, device=here.machine.device, clock=datetime.now)


def _sampling(**how: Any) -> Any:
    from vita.infer.sampling import Sampling
    from vita.spine.config import build

    return build(Sampling, how, where="sampling")
