"""Steady under load: what `python -m benchmarks.endurance` runs, a section a module (see __main__)."""
