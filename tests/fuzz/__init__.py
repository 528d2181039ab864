"""An attack on the package: cases drawn at random, run in a process that may die of them.

``python tests/fuzz --minutes 30 --seed 7`` is the long mode; ``test_fuzz.py`` runs a few hundred cases of fixed seeds
and every case of ``failures.txt``. A case is a line of JSON that holds all that was drawn: it alone runs it again.
"""
