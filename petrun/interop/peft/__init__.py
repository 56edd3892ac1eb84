"""Read and write adapter folders of peft, one kind in each file."""
