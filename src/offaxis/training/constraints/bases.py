"""The subspace of each matrix: taken from an update or a gradient, or drawn, and recorded."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxtyping import Float64
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from offaxis.engine.seeds import generator_for
from offaxis.errors import CheckpointError, RecipeError
from offaxis.files import write_atomically
from offaxis.linalg.confinement import Subspace, leading_subspace, random_subspace

# In the run folder: `<matrix>.V`, inputs x rank, and `<matrix>.U`, outputs x rank.
BASIS_FILE = "subspace.safetensors"

Directions = Callable[[str], Float64[Tensor, "m n"]]
"""The update or gradient of a matrix by its name."""


def leading_bases(
    matrices: Mapping[str, Parameter], rank: int, directions: Directions
) -> dict[str, Subspace]:
    """The leading singular vectors of each matrix's update or gradient.

    Raises:
        NumericsError: If one has fewer directions than `rank`.
    """
    return {name: leading_subspace(directions(name), rank, name) for name in matrices}


def random_bases(matrices: Mapping[str, Parameter], rank: int, seed: int) -> dict[str, Subspace]:
    """Haar subspaces, each keyed by the seed and the name of its matrix.

    Raises:
        RecipeError: If a matrix has fewer directions than `rank`.
    """
    bases = {}
    for name, weight in matrices.items():
        rows, cols = weight.shape
        if rank > min(rows, cols):
            raise RecipeError(
                "subspace.rank",
                expected=f"at most {min(rows, cols)}, the smaller side of {name}",
                found=str(rank),
                do="lower it, or leave the matrix out by subspace.matrices",
            )
        bases[name] = random_subspace(rows, cols, rank, generator_for("subspace", seed, name))
    return bases


def write_bases(bases: Mapping[str, Subspace], folder: Path) -> None:
    """Record the bases in the folder of a run.

    Raises:
        ResultsError: If it cannot be written.
    """
    tensors = {
        f"{name}.{side}": getattr(basis, side).contiguous()
        for name, basis in bases.items()
        for side in ("U", "V")
    }
    write_atomically(folder / BASIS_FILE, lambda path: save_file(tensors, path))


def read_bases(folder: Path) -> dict[str, Subspace]:
    """The bases that a run was trained in.

    Raises:
        CheckpointError: If the run has no such file, or it is damaged.
    """
    try:
        tensors = load_file(folder / BASIS_FILE)
        names = sorted({name[:-2] for name in tensors})
        return {name: Subspace(tensors[f"{name}.U"], tensors[f"{name}.V"]) for name in names}
    except Exception as error:  # safetensors has kinds of its own
        raise CheckpointError(
            str(folder / BASIS_FILE),
            expected="the bases of a run in a subspace",
            found=f"{type(error).__name__}: {error}",
            do="name the folder of a run with a [subspace], whole as it was left",
        ) from error
