"""Write scripts and manifests that submit a training job: one scheduler in each file, all in one table. Nothing is submitted here."""
