"""Training targets are only the answers of the assistant, for any template and dialogue, or the template is refused."""

from __future__ import annotations

import random
import re

import pytest

from tests.data.templates import LLAMA_3_2, QWEN_3
from vita.data.records import Message, Role
from vita.data.tokens.chat_template import CHATML, ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue, encode, encode_training, turn_ends
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import DataError
from vita.testing import byte_tokenizer

END = "<|im_end|>"
LAST_ENDS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}\n\n"
    "{% else %}### Instruction:\n{{ m['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% else %}{{ eos_token }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""The end of turn of this template is not a stop token if `eos_token` is another token (see `phi_tokenizer`)."""
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
    "{% else %}{{ '[INST] ' + (system + '\n\n' if system and loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
MISTRAL_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{% for m in loop_messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}"
    "{% if system is defined and m == (loop_messages | selectattr('role', 'equalto', 'user') | list)[-1] %}"
    "{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% endif %}{% endif %}{% endfor %}"
)
"""The system message is in the last user turn, so that earlier prompts are not prefixes of the dialogue."""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + (first if loop.first else '') + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
QWEN_2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_BEFORE_NEXT = (
    "{% for m in messages %}{% if not loop.first %}<|im_end|>{% endif %}{{ m['role'] + ': ' + m['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>assistant: {% else %}<|im_end|>{% endif %}"
)
NO_END = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endfor %}"
ALWAYS_ASKS = NO_END + "{{ '<|im_start|>assistant\n' }}"
MARKS_ALL = "{% for m in messages %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% endfor %}"
MARKS_THE_WHOLE = (
    "{% generation %}{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}{% endgeneration %}"
)
DATED = "{{ strftime_now('%Y') if strftime_now is defined else '2024' }}\n" + PHI_3
LENGTH = "{{ messages | map(attribute='content') | join | length }}\n" + PHI_3
TEMPLATES = {
    "chatml": CHATML,
    "last answer ends": LAST_ENDS,
    "phi-3": PHI_3,
    "mistral": MISTRAL,
    "mistral v3": MISTRAL_3,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "qwen 2": QWEN_2,
    "qwen 3": QWEN_3,
    "llama 3.2": LLAMA_3_2.replace("<|eot_id|>", END),
    "end before next": END_BEFORE_NEXT,
    "no end": NO_END,
    "always asks": ALWAYS_ASKS,
    "marks all": MARKS_ALL,
    "marks the whole": MARKS_THE_WHOLE,
    "dated": DATED,
    "length": LENGTH,
}
REFUSED = {"length", "no end", "always asks", "marks all", "marks the whole"}


def create_messages(*turns: tuple[Role, str]) -> list[Message]:
    return [Message(role, content) for role, content in turns]


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<|endoftext|>", "eos_token": END})


def target_spans(tokenizer: Tokenizer, encoded: EncodedDialogue) -> list[str]:
    """Return the text of each contiguous span of training targets."""
    spans: list[list[int]] = [[]]
    for token, learn in zip(encoded.ids, encoded.learn, strict=True):
        if learn:
            spans[-1].append(token)
        elif spans[-1]:
            spans.append([])
    return [tokenizer.decode(span, special=True) for span in spans if span]


def phi_tokenizer() -> Tokenizer:
    """Return a tokenizer whose only stop token is `<|endoftext|>`, although turns end with another special token."""
    tokenizer = byte_tokenizer()
    definition = tokenizer._definition.replace(END, "<|end|>")
    return Tokenizer(definition, settings={"eos_token": "<|endoftext|>"})


def random_dialogue(random_source: random.Random) -> list[Message]:
    """Return turns in a random order of roles that templates allow, each with a unique word."""
    messages: list[Message] = []
    if random_source.random() < 0.4:
        messages.append(Message("system", "w0x"))
    if random_source.random() < 0.2:
        messages.append(Message("assistant", f"w{len(messages)}x opens"))
    for _ in range(random_source.randint(1, 4)):
        messages.append(Message("user", _words(random_source, len(messages))))
        if random_source.random() < 0.2:
            messages.append(Message("tool", _words(random_source, len(messages))))
        messages.append(Message("assistant", _words(random_source, len(messages))))
    return messages


def _words(random_source: random.Random, number: int) -> str:
    fillers = ["", " ", "\n", " yes", " <|im_end|>", " ### Response:\n", " [/INST]", " 猫", " <b>", " assistant\n"]
    return random_source.choice(fillers) + f"w{number}x" + random_source.choice(fillers)


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_and_all_answers_of_the_assistant_are_targets(name: str) -> None:
    tokenizer, template, random_source = byte_tokenizer(), template_of(TEMPLATES[name]), random.Random(name)
    for _ in range(60):
        messages = random_dialogue(random_source)
        if name in REFUSED:
            with pytest.raises(DataError, match="^chat template: "):
                encode(tokenizer, template, messages)
            continue
        encoded = encode(tokenizer, template, messages)
        learned = set(re.findall(r"w\d+x", "|".join(target_spans(tokenizer, encoded))))
        expected = {re.findall(r"w\d+x", message.content)[0] for message in messages if message.role == "assistant"}
        assert learned == expected, (messages, target_spans(tokenizer, encoded))


CHAT = create_messages(("user", "Hi"), ("assistant", "Hello"), ("user", "SECRET"), ("assistant", "Bye"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("last answer ends", ["Hello", f"Bye\n\n{END}"]),
        ("phi-3", [f"Hello{END}", f"Bye{END}"]),
        ("mistral", [f" Hello{END}", f" Bye{END}"]),
        ("mistral v3", [f" Hello{END}", f" Bye{END}"]),
        ("gemma", [f"Hello{END}", f"Bye{END}"]),
        ("zephyr", [f"\nHello{END}", f"\nBye{END}"]),
        ("llama 3.2", [f"Hello{END}", f"Bye{END}"]),
        ("qwen 3", [f"Hello{END}", f"<think>\n\n</think>\n\nBye{END}"]),
        ("end before next", [f"Hello{END}", f"Bye{END}"]),
    ],
)
def test_answers_are_targets_with_the_end_of_the_template(name: str, expected: list[str]) -> None:
    tokenizer = byte_tokenizer()
    assert target_spans(tokenizer, encode(tokenizer, template_of(TEMPLATES[name]), CHAT)) == expected


def test_an_end_of_turn_that_is_not_a_stop_token_ends_the_answer() -> None:
    tokenizer = phi_tokenizer()
    template = ChatTemplate(PHI_3.replace(END, "<|end|>"), {"eos_token": "<|endoftext|>"})
    assert tokenizer.specials["<|end|>"] not in tokenizer.stops
    assert target_spans(tokenizer, encode(tokenizer, template, CHAT)) == ["Hello<|end|>", "Bye<|end|>"]
    assert turn_ends(tokenizer, template) == {tokenizer.specials["<|end|>"]}


def test_a_template_without_an_end_of_turn_is_refused_after_a_last_user_message() -> None:
    messages = create_messages(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))
    for source in (NO_END, "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"):
        with pytest.raises(DataError, match=r"leaves <\|im_end\|> out of what is learned of answer 2"):
            encode(byte_tokenizer(), template_of(source), messages)
    for name in ("last answer ends", "phi-3", "chatml", "end before next"):
        assert any("Hello" in span for span in target_spans(byte_tokenizer(), encode(
            byte_tokenizer(), template_of(TEMPLATES[name]), messages)))  # fmt: skip


def test_an_end_of_turn_in_plain_text_is_a_target_after_each_answer() -> None:
    """`<|stop|>` is not a special token: it is a target of both answers, and the end token one of the last answer."""
    template = template_of(PHI_3.replace(END, "<|stop|>"))
    tokenizer = byte_tokenizer()
    assert "<|stop|>" not in tokenizer.specials
    assert target_spans(tokenizer, encode(tokenizer, template, CHAT)) == ["Hello<|stop|>", f"Bye<|stop|>\n{END}"]
    template_without_end = template_of(PHI_3.replace(END, "<|stop|>").replace("{{ eos_token }}", ""))
    with pytest.raises(DataError, match="leaves"):
        encode(tokenizer, template_without_end, CHAT)


SPEAKERS = (
    "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}Assistant: "
    "{% elif not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
"""This template writes no prompt after an answer, and the end token only after the last message."""


def test_the_header_of_a_consecutive_answer_is_not_a_target() -> None:
    tokenizer = byte_tokenizer()
    messages = create_messages(
        ("user", "Hi"), ("assistant", "One"), ("assistant", "Two"), ("user", "SECRET"), ("assistant", "Bye")
    )
    always = SPEAKERS.replace(" and messages[-1]['role'] != 'assistant'", "")
    for source in (SPEAKERS, always):
        encoded = encode(tokenizer, template_of(source), messages)
        assert target_spans(tokenizer, encoded) == ["One", "Two", f"Bye\n{END}"]
        assert target_spans(tokenizer, encode(tokenizer, template_of(source), messages[:3])) == ["One", f"Two\n{END}"]


def test_tool_results_are_not_targets() -> None:
    tokenizer = byte_tokenizer()
    messages = create_messages(("user", "Hi"), ("assistant", "call()"), ("tool", "TOOLSECRET"), ("assistant", "Bye"))
    for name in ("last answer ends", "phi-3", "zephyr"):
        assert "TOOLSECRET" not in "".join(
            target_spans(tokenizer, encode(tokenizer, template_of(TEMPLATES[name]), messages))
        )


def test_user_text_is_not_a_target_in_a_dialogue_opened_by_the_assistant() -> None:
    tokenizer = byte_tokenizer()
    messages = create_messages(("assistant", "Welcome"), ("user", "USERWORD"), ("assistant", "Bye"))
    assert target_spans(tokenizer, encode(tokenizer, template_of(LAST_ENDS), messages)) == ["Welcome", f"Bye\n\n{END}"]


def test_a_generation_block_around_user_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"has a \{% generation %\} block around the text of a user message"):
        encode(byte_tokenizer(), template_of(MARKS_ALL), CHAT)


def test_a_generation_block_in_a_comment_is_ignored() -> None:
    template = template_of("{# {% generation %} marks answers #}" + PHI_3)
    assert not template.marks_answers
    assert target_spans(byte_tokenizer(), encode(byte_tokenizer(), template, CHAT)) == [f"Hello{END}", f"Bye{END}"]


def test_a_masked_answer_is_context_and_not_a_target() -> None:
    tokenizer = byte_tokenizer()
    messages = [CHAT[0], Message("assistant", "BAD", learned=False), *CHAT[2:]]
    for name in ("chatml", "phi-3", "last answer ends", "qwen 3"):
        encoded = encode(tokenizer, template_of(TEMPLATES[name]), messages)
        assert "BAD" in tokenizer.decode(encoded.ids) and not any(
            "BAD" in span for span in target_spans(tokenizer, encoded)
        )
        assert "Bye" in "".join(target_spans(tokenizer, encoded))


def test_an_answer_that_later_turns_change_is_trained_as_generated() -> None:
    """Qwen 3 removes the reasoning of answers to earlier questions: each answer with reasoning becomes a sequence."""
    tokenizer = byte_tokenizer()
    first, second = "<think>\nOne and one.\n</think>\n\n2", "<think>\nThree and three.\n</think>\n\n6"
    messages = create_messages(("user", "1+1?"), ("assistant", first), ("user", "3+3?"), ("assistant", second))
    dialogue, answer = encode_training(tokenizer, template_of(QWEN_3), messages)
    assert target_spans(tokenizer, dialogue) == [second + END] and "One and one." not in tokenizer.decode(dialogue.ids)
    assert target_spans(tokenizer, answer) == [first + END]


def test_answers_are_located_in_a_template_that_depends_on_the_content() -> None:
    """The template writes a different beginning when the first question contains a certain word."""
    tokenizer = byte_tokenizer()
    source = "{% if 'weather' in messages[0]['content'] %}Use a tool.\n{% endif %}" + PHI_3
    messages = create_messages(("user", "weather?"), ("assistant", "Rain"), ("user", "SECRET"), ("assistant", "Bye"))
    assert target_spans(tokenizer, encode(tokenizer, template_of(source), messages)) == [f"Rain{END}", f"Bye{END}"]
