"""Two workers against one, through `measure`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from memory import alone
from offaxis.checkpoints.trajectory import find_trajectories
from offaxis.measurement import Options, measure
from pairs import layers, save_model
from rows import Row, named, row

_SHAPE, _LAYERS = (1024, 3072), 12


def speed_up() -> list[Row]:
    """The wall time of measuring a made model by one worker, over that by two."""
    with TemporaryDirectory() as folder:
        save_model(Path(folder), layers(_LAYERS, _SHAPE), 1)
        one, two = (alone(measuring_seconds, Path(folder), workers) for workers in (1, 2))
    case = f"{_LAYERS} matrices of {named(_SHAPE)}, exact, {one:.1f} s of wall time"
    return [row("two workers", "one", case, one / two, ">= 1.8")]


def measuring_seconds(folder: Path, workers: int) -> float:
    """Seconds from the plan, when the workers are there and the files hashed, to the last unit."""
    out = folder / f"by-{workers}"
    found = find_trajectories([folder / "anchor", folder / "run"])
    measure(found, out, Options(), workers=workers)
    hashed = (out / ".digests.json").stat().st_mtime
    ended = [path.stat().st_mtime for path in out.rglob("*.safetensors")]
    return max(ended) - hashed
