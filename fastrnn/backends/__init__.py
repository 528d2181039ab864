"""Backends: each turns a plan and arrays into a run. :mod:`fastrnn.dispatch` loads them."""
