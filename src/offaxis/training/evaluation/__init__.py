"""Evaluation: what a model solves, and beside it always how far it went from its anchor."""

from offaxis.training.evaluation.judgement import distance, judge, logged, solved_in
from offaxis.training.evaluation.metrics import Metric
from offaxis.training.evaluation.ruler import StartSamples
from offaxis.training.evaluation.solving import accuracy

__all__ = ["Metric", "StartSamples", "accuracy", "distance", "judge", "logged", "solved_in"]
