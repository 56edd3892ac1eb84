"""Interpret rows: kinds and columns, labels, numbers to predict, and rows that cannot be used."""
