"""Adapter folders of peft: one kind a file, read and written."""
