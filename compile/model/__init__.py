"""PSA-MF for the edge: one text trunk, recurrence-free voice and face encoders, three levels of fusion."""

from psamf_edge.compile.model.student import Student, StudentConfig

__all__ = ["Student", "StudentConfig"]
