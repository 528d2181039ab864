"""The main job: a character language model trained on a text."""
