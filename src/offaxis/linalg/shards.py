"""Small matrices beside weights that may be sharded over processes, and sums over the shards."""

from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def placed_as(reference: Tensor, tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return a tensor that every process holds whole, fit to be multiplied with `reference`.

    That is the tensor itself beside a plain one, and a replicated DTensor beside a DTensor.
    """
    if not isinstance(reference, DTensor) or isinstance(tensor, DTensor):
        return tensor
    mesh = reference.device_mesh
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def own(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*own"]:
    """Return the part of a tensor that this process holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return all of a tensor to every process: what is partial summed, what is sharded gathered."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
