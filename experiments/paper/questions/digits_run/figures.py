"""The loss by step."""

from experiments.paper.questions.plane_run.figures import figures

__all__ = ["figures"]
