"""Teachers: a model in this process, or one behind a server that tells log-probabilities."""

from offaxis.training.teachers.http import HttpTeacher
from offaxis.training.teachers.in_process import Shared, shared_tokens

__all__ = ["HttpTeacher", "Shared", "shared_tokens"]
