"""Scripts and manifests that submit a training job, as text: one scheduler a file, all in one table. Nothing is submitted here."""
