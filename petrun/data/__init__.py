"""Turn files into batches: formats, rows, templates and chat, tokenizers, batches. No net and no run."""
