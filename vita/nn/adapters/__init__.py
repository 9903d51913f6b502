"""Low-rank adapters: trainable additions to a frozen model, in the file format of peft."""
