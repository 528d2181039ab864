"""Code from plans: nothing else in the package knows how code is written."""
