"""MindPet's import path of its log."""
