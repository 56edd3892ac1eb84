"""Read and write checkpoints of MindPet: settings come from their names and shapes."""
