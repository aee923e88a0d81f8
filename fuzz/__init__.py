"""Fuzzing of everything that reads bytes from outside (``docs/fuzzing.md``).

``python -m fuzz NAME`` runs one harness under atheris; ``tests/fuzz/test_corpus.py`` replays what was kept, without it.
"""
