"""Load the tokenizer of a Hugging Face folder as transformers does, without transformers."""
