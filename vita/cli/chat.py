"""Interactive use of a model: `vita chat`, `vita generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita.cli.app import app, errors_console, open_workspace
from vita.cli.chat_tools import MAX_ROUNDS, ChatTools, describe
from vita.cli.options import MODELS, print_json
from vita.cli.unexpected import print_error
from vita.cli.workspace import Workspace
from vita.data.records import Message, ToolCall
from vita.nn.weight_format import WeightFormat
from vita.spine.console import line, printable
from vita.spine.errors import ConfigError, DataError
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.infer.dialogue import FittedDialogue
    from vita.infer.engine import Engine
    from vita.infer.sampling import Sampling

ModelArgument = Annotated[str, typer.Argument(help="A name (cat/sft), a digest, or a Hugging Face model folder.")]
_DEFAULT = " Default: the value in generation_config.json, else {}."
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Sampling temperature; 0 always takes the most likely token." + _DEFAULT.format("0.7 in a chat and 1")
    ),
]
TopK = Annotated[
    int | None, typer.Option(help="Sample from the k most likely tokens; 0 for all." + _DEFAULT.format("0"))
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the most likely tokens with this total probability." + _DEFAULT.format("0.95 in a chat and 1")
    ),
]
MaxTokens = Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]
QuantizationOption = Annotated[
    WeightFormat | None,
    typer.Option(help="Compute with weights in bfloat16, or of 8 or 4 bits on the CPU. Default: float32."),
]


@app.command(rich_help_panel=MODELS)
def chat(
    ctx: typer.Context,
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(help="Functions that the model can call: `lookup`, `calculator`, or a JSON file of definitions."),
    ] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    quantization: QuantizationOption = None,
) -> None:
    """Chat with a model in the terminal.

    An empty line or Ctrl-D ends the chat, `/new` starts a new one, Ctrl-C stops an answer. When the context is full,
    the oldest turns are dropped, with a notice.

    Tool calls are shown. The built-in functions `lookup` (a thing of the built-in world) and `calculator` run;
    the result of another function is read from the next line.
    """
    workspace = open_workspace(ctx)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    _sampling(**_chosen(options))  # an option out of range is refused before the model is loaded
    chat_tools = ChatTools.of(tools or ())
    folder = _folder(workspace, model)
    sampling = _sampling(**{"temperature": 0.7, "top_p": 0.95, **_recommended(folder), **_chosen(options)})
    engine = _engine(workspace, model, rows=1, quantization=quantization)  # a dialogue is never in a batch
    opening = [Message("system", valid_text(system, where="--system"))] if system else []
    # Raises if the model has no chat template, or one without tools.
    engine.chat_ids([*opening, _user("")], chat_tools.variables)
    if tools and engine.answer_format.calls is None:
        raise ConfigError("--tools", "the chat template of the model writes calls in no format that can be parsed")
    Session(engine, sampling, opening, chat_tools).run(prompt="you> " if sys.stdin.isatty() else "")


class Session:
    """A dialogue in the terminal; an error or Ctrl-C ends a turn and never the session."""

    def __init__(
        self, engine: Engine, sampling: Sampling, opening: Sequence[Message], tools: ChatTools | None = None
    ) -> None:
        self.engine, self.sampling, self.opening = engine, sampling, list(opening)
        self.tools = tools or ChatTools()
        self.messages = list(opening)

    def run(self, *, prompt: str) -> None:
        """Answer each line of standard input, until an empty one or the end."""
        while True:
            try:
                text = input(prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
                _print_notice("\nan empty line or Ctrl-D ends the chat, /new starts a new one")
                continue
            if not text.strip():
                return
            if text.strip() == "/new":
                self.messages = list(self.opening)
                continue
            try:
                self.turn(text)
            except KeyboardInterrupt:
                _print_notice("\nthe answer was stopped")
            except BrokenPipeError:
                raise  # standard output is closed: `vita chat cat/sft | head -1`
            except Exception as error:  # noqa: BLE001 (an error in one turn does not end the dialogue)
                print_error(error)

    def turn(self, text: str) -> None:
        """Answer one message; nothing is added to the dialogue if that fails."""
        messages = [*self.messages, _user(valid_text(text, where="message"))]
        for _ in range(MAX_ROUNDS):
            fitted = self._fit(messages)
            answer = self._stream_answer(fitted)
            messages = [*fitted.messages, answer]
            if not answer.tool_calls:
                break
            messages += [self._result(call) for call in answer.tool_calls]
        self.messages = messages

    def _fit(self, messages: Sequence[Message]) -> FittedDialogue:
        from vita.infer.dialogue import dropped_notice, fit_dialogue

        fitted = fit_dialogue(
            messages,
            encode=lambda part: self.engine.chat_ids(part, self.tools.variables),
            context=self.engine.model.architecture.context,
            answer_tokens=self.sampling.max_tokens,
        )
        if fitted.dropped:
            _print_notice(f"{dropped_notice(fitted.dropped)}; /new starts a new chat")
        return fitted

    def _stream_answer(self, fitted: FittedDialogue) -> Message:
        """Print an answer while it is generated, and return it."""
        from vita.infer.answer_formats.deltas import CallDelta, Delta, TextDelta

        prompt_end = self.engine.tokenizer.decode(fitted.ids[-32:], special=True)
        parser = self.engine.answer_format.parser(self.tools.variables.tools, prompt_end=prompt_end)
        texts = {"content": "", "reasoning": ""}
        calls: list[ToolCall] = []

        def show(deltas: Iterable[Delta]) -> None:
            for delta in deltas:
                if isinstance(delta, CallDelta):
                    calls.append(replace(delta.call, id=self._call_id(len(fitted.messages) + delta.index)))
                    _print_notice(("\n" if any(texts.values()) else "") + printable(describe(delta.call)))
                if not isinstance(delta, TextDelta):
                    continue
                if delta.kind == "content" and texts["reasoning"] and not texts["content"]:
                    typer.echo("\n")
                texts[delta.kind] += delta.text
                typer.echo(printable(delta.text), nl=False)

        try:
            for piece in self.engine.stream(fitted.ids, self.sampling, visible=self.engine.visible_ids):
                show(parser.push(piece))
        except KeyboardInterrupt:
            _print_notice("\nthe answer was stopped")
        show(parser.finish())
        if not calls:
            typer.echo()
        template = self.engine.template
        keeps_reasoning = template is not None and template.features.reads_reasoning
        reasoning = texts["reasoning"] if keeps_reasoning else ""
        return Message("assistant", texts["content"], tool_calls=tuple(calls), reasoning=reasoning or None)

    def _result(self, call: ToolCall) -> Message:
        """Return the result of a call: of a built-in function, or from the next line of standard input."""
        result = self.tools.run(call)
        if result is None:
            result = input(f"result of {call.name}> " if sys.stdin.isatty() else "")
        else:
            _print_notice(f"[result] {printable(result)}")
        return Message("tool", result, tool_call_id=call.id, name=call.name)

    def _call_id(self, number: int) -> str:
        """Return the id of a call: nine letters and digits, which every template accepts."""
        return f"call{number:05d}"


@app.command(rich_help_panel=MODELS)
def generate(
    ctx: typer.Context,
    model: ModelArgument,
    prompt: Annotated[list[str] | None, typer.Argument(help="Text to continue. Default: standard input.")] = None,
    as_chat: Annotated[bool, typer.Option("--chat", help="Apply the chat template to the prompt.")] = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = 128,
    seed: Seed = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text.")] = None,
    quantization: QuantizationOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with token ids and log-probabilities.")
    ] = False,
) -> None:
    """Generate text for one or more prompts, in one batch.

    Control characters in the text are escaped; `--json` prints the exact text.
    """
    workspace = open_workspace(ctx)
    prompts = list(prompt or ([sys.stdin.read()] if not sys.stdin.isatty() else []))
    prompts = [valid_text(text, where="prompt") for text in prompts]
    if not prompts:
        raise ConfigError("generate", "no prompt was given", hint='vita generate MODEL "Once upon a time"')
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    _sampling(**_chosen(options))  # an option out of range is refused before the model is loaded
    sampling = _sampling(**{**_recommended(_folder(workspace, model)), **_chosen(options)}, stop=tuple(stop or ()))
    engine = _engine(workspace, model, quantization=quantization)
    ids = [engine.chat_ids([_user(text)]) if as_chat else engine.text_ids(text) for text in prompts]
    if len(ids) == 1 and not as_json:
        for piece in engine.stream(ids[0], sampling):
            typer.echo(printable(piece), nl=False)
        typer.echo()
        return
    completions = engine.generate(ids, sampling)
    if as_json:
        rows = [
            {
                "prompt": text,
                "text": completion.text,
                "finish": completion.finish,
                "ids": list(completion.ids),
                "logprobs": [round(float(value), 6) for value in completion.logprobs],
            }
            for text, completion in zip(prompts, completions, strict=True)
        ]
        print_json(rows[0] if len(rows) == 1 else rows)
        return
    for text, completion in zip(prompts, completions, strict=True):
        workspace.console.print(line((text, "bold"), completion.text), soft_wrap=True)


def answers(model: Artifact, questions: Sequence[str]) -> list[str]:
    """Return the answer to each question: through the chat template, or a sampled continuation by a base model."""
    from vita.infer.engine import Engine

    engine = Engine.open(model.path)
    # An adopted model states no facts: it chats if it has a chat template.
    tuned = bool(model.facts.get("chat", not model.facts and engine.template is not None))
    sampling = _sampling(temperature=0.0 if tuned else 0.8, max_tokens=48 if tuned else 24)
    prompts = [engine.chat_ids([_user(text)]) if tuned else engine.text_ids(text) for text in questions]
    return [completion.text.strip() for completion in engine.generate(prompts, sampling)]


def valid_text(text: str, *, where: str) -> str:
    """Return the text; raise `DataError` if it is not valid UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(where, expected="text in UTF-8", got="bytes that are not")
    return text


def _print_notice(text: str) -> None:
    errors_console().print(text, style="yellow", soft_wrap=True)


def _user(text: str) -> Message:
    return Message("user", text)


def _folder(workspace: Workspace, model: str) -> Path:
    from vita.stages.kinds import Model

    return Path(model) if Path(model).is_dir() else workspace.find(model, Model).path


def _engine(workspace: Workspace, model: str, *, rows: int = 64, quantization: WeightFormat | None = None) -> Any:
    from vita.infer.engine import Engine

    folder, device = _folder(workspace, model), workspace.machine.device
    return Engine.open(folder, device=device, rows=rows, clock=datetime.now, packed=True, quantization=quantization)


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling options that the user set."""
    return {name: value for name, value in options.items() if value is not None}


def _recommended(folder: Path) -> dict[str, Any]:
    """Return the sampling settings of the model folder, and print a notice for settings that are not supported."""

    from vita.data.tokens.generation_settings import ignored_settings, sampling_defaults

    if ignored := ignored_settings(folder):
        _print_notice(f"generation_config.json also sets {', '.join(ignored)}, which vita ignores")
    return sampling_defaults(folder)


def _sampling(**values: Any) -> Any:
    from vita.infer.sampling import Sampling
    from vita.spine.config import build

    return build(Sampling, values, where="sampling")
