"""One thread for all that is timed here."""

import os

from .machine import thread_environment

# Before NumPy is imported: its BLAS reads them once.
os.environ.update(thread_environment(1))
