"""The tokenizer of a Hugging Face folder, as transformers' class of it would be, without transformers."""
