"""All matrices of a run in their subspaces: stepped, scaled to another run's norm, and watched."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from offaxis.linalg.confinement import Subspace, projected
from offaxis.linalg.shards import whole
from offaxis.training.constraints.base import Confined, Form
from offaxis.training.constraints.core import CoreForm
from offaxis.training.constraints.gradient import GradientForm
from offaxis.training.constraints.project import ProjectForm
from offaxis.training.constraints.right import RightForm
from offaxis.training.constraints.unconfined import UnconfinedForm
from offaxis.training.updates import Update

FORMS: dict[str, Callable[[Confined], Form]] = {
    "core": CoreForm,
    "gradient": GradientForm,
    "none": UnconfinedForm,
    "project": ProjectForm,
    "right": RightForm,
}


class SubspaceConstraint:
    """Keeps every matrix of `bases` in its subspace, in one form.

    Args:
        update: The layer matrices and their starts, where training starts.
        bases: The subspace of each matrix to confine.
        form: A name of `FORMS`.
        is_two_sided: Whether outputs are constrained, too.
        norms: The Frobenius norm to scale the update of these matrices to after step 1, 2, ...,
            where a form is to be compared at equal norm.
    """

    def __init__(
        self,
        update: Update,
        bases: Mapping[str, Subspace],
        form: str,
        *,
        is_two_sided: bool,
        norms: Sequence[float] = (),
    ) -> None:
        self.update, self.norms, self.num_steps = update, norms, 0
        self.parts = {
            name: Confined(
                update.weights[name],
                update.starts[name],
                V.to(update.starts[name].device),
                U.to(update.starts[name].device) if is_two_sided else None,
            )
            for name, (U, V) in bases.items()
        }
        self.forms = {name: FORMS[form](part) for name, part in self.parts.items()}

    def held(self) -> dict[str, torch.nn.Parameter]:
        """What the optimizer holds in place of each matrix."""
        return {name: form.held for name, form in self.forms.items()}

    def before_step(self) -> None:
        """Bring gradients to what is held."""
        for form in self.forms.values():
            form.before_step()

    def after_step(self) -> None:
        """Bring what is held to the weights, and scale to the norm of this step."""
        for form in self.forms.values():
            form.after_step()
        if self.norms:
            norm = self.update.norm(self.parts)
            factor = self.norms[self.num_steps] / norm if norm else 1.0
            for form in self.forms.values():
                form.rescale(factor)
        self.num_steps += 1

    def measures(self) -> dict[str, float]:
        r"""`leakage`, $\lVert D - P(D)\rVert / \lVert D\rVert$ of the update D of all matrices.

        P is the projection that the form stands for, $D V V^\top$ or $U U^\top D V V^\top$. A
        number in [0, 1]; 0 for an update of zero. Weights in float32 cannot say W0 + U M V' better
        than to half an ulp of W, which is what an exact form shows while the update is small.
        """
        inside = torch.zeros((), dtype=torch.float64)
        total = inside.clone()
        for name, part in self.parts.items():
            D = self.update.of(name)
            total += whole(D.square().sum()).double().cpu()
            inside += whole((D - projected(D, part.V, part.U)).square().sum()).double().cpu()
        return {"leakage": math.sqrt(inside / total) if total else 0.0}

    def state_dict(self) -> dict[str, Any]:
        """The coordinates that are held in place of weights, and how many steps they have seen."""
        held = {
            name: form.held.detach()
            for name, form in self.forms.items()
            if form.held is not self.parts[name].weight
        }
        return {"num_steps": self.num_steps, "held": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the weights are those of the checkpoint beside it."""
        self.num_steps = state["num_steps"]
        with torch.no_grad():
            for name, tensor in state["held"].items():
                self.forms[name].held.copy_(tensor)
