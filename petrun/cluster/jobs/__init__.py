"""What submits a training job: scripts and manifests as text, one scheduler a file. Nothing is submitted here."""
