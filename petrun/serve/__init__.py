"""Answers over HTTP in the format of OpenAI's API. One thread computes, another serves HTTP. The net itself is in petrun.inference."""
