"""Chat templates: the program in a model's folder that writes a dialogue as text.

    template = ChatTemplate.load(model_folder)             # or ChatTemplate.default(): ChatML
    template.render(messages, TemplateVariables(tools=tools), add_generation_prompt=True)

The template is the one in the model's folder, so training, testing and serving see the same tokens.
`vita.data.tokens.dialogue_encoding` converts dialogues to tokens, with the mask of the learned tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vita.data.records import NO_VARIABLES, Message, TemplateVariables
from vita.data.tokens.chatml import CHATML as CHATML
from vita.data.tokens.jinja_environment import has_generation_block, template_environment
from vita.data.tokens.template_features import TemplateFeatures, check_variables
from vita.data.tokens.template_messages import TemplateInputs, TemplateMessage
from vita.data.tokens.tokenizer import read_settings
from vita.spine.errors import DataError, ModelError, exception_text
from vita.spine.model_files import ModelFiles, ModelFolder

FILE = "chat_template.jinja"
TOOL_FILE = "additional_chat_templates/tool_use.jinja"
"""A separate template for dialogues with tools, as transformers saves it."""

THINKING = "enable_thinking"
"""Variable of a template that switches the reasoning of the model on and off."""

TRAINING_DATE = datetime(2024, 7, 26)
"""The date for templates in training and testing, so that results do not depend on the day.

It is the date that the templates of Llama 3 use if no clock is available.
"""


def training_clock() -> datetime:
    """Return `TRAINING_DATE`."""
    return TRAINING_DATE


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with the names of the special tokens that it may use (`bos_token`, ...)."""

    source: str
    names: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], datetime] = training_clock
    """Clock of `strftime_now`; a server uses the real time (`with_clock`)."""
    tool_source: str | None = None
    """The template of dialogues with tools, if it is a separate one."""

    @classmethod
    def default(cls) -> ChatTemplate:
        """Return the ChatML template."""
        return cls(CHATML)

    @classmethod
    def load(cls, folder: ModelFolder) -> ChatTemplate:
        """Load the template of a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`."""
        files = ModelFiles.of(folder)
        config = read_settings(files, "tokenizer_config.json")
        source, tool_source = config.get("chat_template"), None
        if isinstance(source, list):  # several named templates
            sources = {template["name"]: template["template"] for template in source}
            source, tool_source = sources.get("default"), sources.get("tool_use")
        if files.exists(FILE):
            source = files.text(FILE)
        if files.exists(TOOL_FILE):
            tool_source = files.text(TOOL_FILE)
        if not source:
            hint = "tune it with `vita sft` first, or put a chat_template.jinja there"
            raise ModelError(
                str(folder), "holds no chat template: a base model continues text, it does not chat", hint=hint
            )
        names = _special_names({**read_settings(files, "special_tokens_map.json"), **config})
        return cls(source, names, tool_source=tool_source)

    def with_clock(self, clock: Callable[[], datetime]) -> ChatTemplate:
        """Return the same template with another clock."""
        return replace(self, clock=clock)

    @cached_property
    def for_tools(self) -> ChatTemplate:
        """Return the template of dialogues with tools."""
        return self if self.tool_source is None else replace(self, source=self.tool_source, tool_source=None)

    def save(self, folder: str | Path) -> None:
        """Write `chat_template.jinja`."""
        (Path(folder) / FILE).write_text(self.source, encoding="utf-8")

    def save_where_missing(self, folder: str | Path) -> None:
        """Write `chat_template.jinja` unless the folder contains a template, which is not changed."""
        try:
            ChatTemplate.load(folder)
        except ModelError:
            self.save(folder)

    def render(
        self,
        messages: Sequence[Message],
        variables: TemplateVariables = NO_VARIABLES,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the dialogue as text, equal to transformers' `apply_chat_template(tokenize=False)`."""
        template = self.for_tools if variables.tools else self
        inputs = template.inputs(messages, variables)
        return template.render_inputs(inputs.messages, inputs.variables, add_generation_prompt=add_generation_prompt)

    def inputs(self, messages: Sequence[Message], variables: TemplateVariables = NO_VARIABLES) -> TemplateInputs:
        """Return messages and variables in the form of the template; refuse by name what it does not write."""
        variables = self._without_disabled_thinking(variables)
        check_variables(variables, self.variable_names, assigned=self.assigned_names)
        if not any(message.tool_calls or message.reasoning or message.name for message in messages):
            return TemplateInputs.of(messages, variables)
        self.features.check(messages)
        return TemplateInputs.of(messages, variables, self.features.form)

    def _without_disabled_thinking(self, variables: TemplateVariables) -> TemplateVariables:
        """Drop `enable_thinking: false` if the template writes no reasoning, because nothing is to be switched off."""
        if variables.settings.get(THINKING) is not False or THINKING in self.variable_names:
            return variables
        if self.features.reads_reasoning:
            return variables
        return replace(variables, settings={key: value for key, value in variables.settings.items() if key != THINKING})

    def render_inputs(
        self,
        messages: Sequence[TemplateMessage],
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool,
        marks: tuple[str, str] = ("", ""),
    ) -> str:
        """Return the text for messages and variables in the form of the template.

        `marks` are written at the start and the end of each `{% generation %}` block.
        """
        if not messages:
            raise DataError("chat", "a dialogue needs at least one message")
        values = {"tools": None, "documents": None, **self.names, **(variables or {}), "_generation_marks": marks}
        compiled = self._compiled
        try:
            return compiled.render(messages=list(messages), add_generation_prompt=add_generation_prompt, **values)
        except TemplateError as error:
            raise DataError("chat template", f"refuses the dialogue ({error})") from None
        except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
            raise DataError("chat template", f"cannot write the dialogue ({exception_text(error)})") from None

    @cached_property
    def marks_answers(self) -> bool:
        """Return True if the template marks the learned text with `{% generation %}`."""
        return has_generation_block(self._syntax_tree)

    @cached_property
    def variable_names(self) -> frozenset[str]:
        """Return the names of the variables that the template reads."""
        return frozenset(meta.find_undeclared_variables(self._syntax_tree))

    @cached_property
    def assigned_names(self) -> frozenset[str]:
        """Return the names of the variables that the template sets before it reads them."""
        contexts = dict[str, str]()
        for name in self._syntax_tree.find_all(nodes.Name):
            contexts.setdefault(name.name, name.ctx)
        return frozenset(name for name, context in contexts.items() if context == "store")

    @cached_property
    def features(self) -> TemplateFeatures:
        """Return what the template writes of calls and reasoning."""
        return TemplateFeatures.of(self.source, self.render_inputs)

    def facts(self) -> dict[str, str]:
        """Return the date that the template reads in training, if it reads the clock."""
        return {"template_date": f"{self.clock():%Y-%m-%d}"} if "strftime_now" in self.source else {}

    @cached_property
    def _syntax_tree(self) -> nodes.Template:
        _ = self._compiled  # raises an error if the source is not Jinja
        return self._environment.parse(self.source)

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        return template_environment(self.clock)

    @cached_property
    def _compiled(self) -> Any:
        try:
            return self._environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ModelError("chat template", f"is not Jinja: {error.message} (line {error.lineno})") from None


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    names = {}
    for role in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = settings.get(role)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[role] = value
    return names
