"""The `petrun vocab` commands: more pieces for a base's tokenizer."""
