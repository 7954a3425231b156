"""Faces of other packages over a hold, for programs that were written for them. No face has storage of its own."""
