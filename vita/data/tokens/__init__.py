"""From records to tokens: tokenizer, chat template, shards, packing and the order of training."""
