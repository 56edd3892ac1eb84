"""Sentence encoders: folders of sentence-transformers as they are, a text in, a vector out."""
