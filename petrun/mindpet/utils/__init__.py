"""MindPet's exceptions, constants and helpers, as far as its delta, freeze and callback interfaces name them."""
