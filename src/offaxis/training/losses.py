"""The models that a loss reads, from their last hidden states on."""

import time
from dataclasses import dataclass

from transformers import PreTrainedModel

from offaxis.objectives.base import Head, Objective, Streams
from offaxis.objectives.loss import Loss, token_loss
from offaxis.recipe import Recipe
from offaxis.training.heads import check_head, fixed_head, frozen, head_of, shared
from offaxis.training.rows import Rows


@dataclass
class LossModels:
    """Teacher and reference beside the student, as far as an objective reads them.

    Attributes:
        teacher: Who teaches in this process, if one does.
        reference: The student as it started, where the objective holds it there.
        num_ids: The entries that student's and teacher's vocabularies share; None for all.
        teacher_seconds: How long the teacher was read since this was set to zero.
    """

    teacher: PreTrainedModel | None
    reference: PreTrainedModel | None
    num_ids: int | None
    teacher_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        student: PreTrainedModel,
        recipe: Recipe,
        objective: Objective,
        *,
        teacher: PreTrainedModel | None,
        num_ids: int | None,
    ) -> "LossModels":
        """Those of a run, on the student's device.

        Raises:
            CheckpointError: If one does more to its logits than to multiply with a matrix.
        """
        for model in (student, teacher):
            if model is not None:
                check_head(model, recipe.run_name)
        if teacher is not None:
            teacher = teacher.eval().to(student.device)
        is_held = objective.reads_reference(recipe.objective.settings)
        return cls(teacher, frozen(student) if is_held else None, num_ids)

    def heads(self, student: PreTrainedModel, rows: Rows) -> dict[str, Head]:
        """What logits are made of: the student's, and of those whose distribution is weighed."""
        heads = {"student": head_of(student, rows)}
        weighed = [rows.streams, *(component.streams for component in rows.components.values())]
        if self.teacher is not None and any(s and s.divergence_BT is not None for s in weighed):
            began = time.perf_counter()
            heads["teacher"] = fixed_head(self.teacher, rows)
            self.teacher_seconds += time.perf_counter() - began
        if self.reference is not None:
            heads["reference"] = fixed_head(self.reference, rows)
        return shared(heads, self.num_ids)


def loss_of(heads: dict[str, Head], rows: Rows, streams: Streams, num_tokens: float) -> Loss:
    """The loss that streams of rows ask for."""
    return token_loss(
        heads["student"],
        rows.batch,
        streams,
        num_tokens=num_tokens,
        teacher=heads.get("teacher"),
        reference=heads.get("reference"),
    )
