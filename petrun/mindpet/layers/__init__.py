"""MindPet's import path of its activations."""
