"""LoRAs of pipelines that make pictures, in diffusers' files and in those of kohya's scripts."""
