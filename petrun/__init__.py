"""petrun: parameter-efficient fine-tuning on MindSpore from the command line."""

__version__ = "0.1.0"
