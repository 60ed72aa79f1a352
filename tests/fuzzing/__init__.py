"""Readers of foreign bytes, fuzzed by Atheris, which looks for inputs that reach lines no input has reached before."""
