"""Proves that base + delta and a merged model agree, and writes the delta's prompts into a merged folder. The merge is checkpoint's."""
