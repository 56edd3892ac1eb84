"""Answers over HTTP in the format of OpenAI's API. The net computes in one thread, requests come and go in another."""
