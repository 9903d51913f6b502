"""Bits per byte of checkpoints of nanochat; `nanochat_curve` runs this program in the checkout.

The program imports the checkpoint loader of the checkout, and only the shared protocol of Vita.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from bench.val_bits_per_byte import OPENINGS, bits_per_byte, texts, torch_score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", required=True)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()

    import torch
    from nanochat.checkpoint_manager import build_model  # type: ignore[import-not-found]

    torch.set_num_threads(arguments.threads)
    documents = texts(arguments.documents, limit=arguments.limit)
    for step in arguments.steps:
        model, tokenizer, facts = build_model(str(arguments.checkpoints), step, torch.device("cpu"), "eval")
        for opening in OPENINGS if step == arguments.steps[-1] else OPENINGS[:1]:
            result = bits_per_byte(
                documents,
                torch_score(model),
                encode=tokenizer.encode,
                document=tokenizer.get_bos_token_id(),
                context=facts["max_seq_len"],
                opening=opening,
            )
            print(json.dumps({"step": step, "opening": opening} | asdict(result)), flush=True)


if __name__ == "__main__":
    main()
