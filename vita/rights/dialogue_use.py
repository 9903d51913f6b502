"""The use of a dialogue in fine-tuning: whole, truncated or unused, computed as the stage prepares it.

use = dialogue_use(run, dialogue, repeat=1.0, store=store, ledger=ledger)
use.use, use.explanation       # ("not used", "dropped (cut_before_answer: 380 tokens), not trained on")
"""

from __future__ import annotations

from typing import NamedTuple

from vita.data.records import Dialogue
from vita.data.sources.source import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.truncation import ROW_TOKENS
from vita.data.tokens.tuning_examples import EncodingSettings, prepare_dialogue
from vita.rights.document_fates import Use
from vita.spine.config import InputPath
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store


class DialogueUse(NamedTuple):
    """The use of a dialogue in a run."""

    use: Use
    explanation: str


def dialogue_use(run: Run, dialogue: Dialogue, *, repeat: float, store: Store, ledger: Ledger) -> DialogueUse | None:
    """Return the use of a dialogue in an `sft` run; None if all of it was used, or if its use is unknown."""
    from vita.infer.pretrained import PretrainedText

    try:
        text = PretrainedText.load(store.open(ledger.inputs(run.id)["model"]).path)
        length = run.config.get("max_length") or min(text.architecture.context, ROW_TOKENS)
        settings = EncodingSettings(
            int(length),
            run.config.get("on_long", "truncate"),
            recorded_value(run.config, "eval_fraction", 0.0),
            run.config.get("seed", 0),
        )
        source = Source(path=InputPath("dialogues"), repeat=repeat, on_bad_row="drop")
        prepared = prepare_dialogue(dialogue, source, text.tokenizer, text.template or ChatTemplate.default(), settings)
    except (VitaError, KeyError):
        return None
    if prepared.drop:
        return DialogueUse("not used", f"dropped ({prepared.drop.reason}: {prepared.drop.detail}), not trained on")
    if prepared.held_out:
        return None
    if not prepared.repeats:
        return DialogueUse("not used", f"left out by the source's `repeat` of {repeat:g}")
    if prepared.truncated:
        detail = f"trained on its first {settings.length:,} of {prepared.tokens:,} tokens; the rest was cut off"
        return DialogueUse("trained on", detail)
    return None
