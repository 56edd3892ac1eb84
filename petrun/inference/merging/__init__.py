"""What a merge needs of inference: the proof that base + delta and the merged model agree, and the prompts of a merged folder."""
