"""A small chat model in a folder, and a runner of commands, for tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vita.cli import main
from vita.data.tokens.chat_template import ChatTemplate
from vita.nn import hf
from vita.testing import byte_tokenizer, tiny_model

Vita = Callable[..., tuple[int, str, str]]


def save_chat_model(folder: Path, *, context: int = 128, seed: int = 0) -> Path:
    """Save a random byte-level chat model as a Hugging Face folder."""
    folder.mkdir(parents=True)
    hf.save(tiny_model(std=0.3, seed=seed, context=context), folder)
    byte_tokenizer().save(folder)
    ChatTemplate.default().save(folder)
    return folder


def command_runner(capsys: pytest.CaptureFixture[str]) -> Vita:
    """Return a function that runs `vita WORDS...` in this process: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(list(words))
        captured = capsys.readouterr()
        code = exit_info.value.code
        return (code if isinstance(code, int) else 1), captured.out, captured.err

    return run
