"""From the table to per-run curves: readings averaged over the linear matrices of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from offaxis.report.quantities import Quantity
from offaxis.table import definition_settings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Token tables are measured, but a handful of rows move with the corpus: they stay out of averages.
LEFT_OUT_ROLES = ("embed_tokens", "lm_head")

# The "overall" sparsity of the paper weights matrices by their number of parameters.
WEIGHTED_DIAGNOSTICS = ("sparsity",)

# Settings that follow the shape of a matrix or the end of a run: readings that differ in these
# only are readings of one quantity, and are averaged together.
FITTED_SETTINGS = ("k", "rank", "final")


@dataclass(frozen=True)
class Series:
    """One quantity of one run over its steps; NaN where it is not defined."""

    steps: Ints
    value: Floats
    null_mean: Floats
    null_sd: Floats

    @property
    def excess(self) -> Floats:
        """Value minus null."""
        return self.value - self.null_mean

    def defined(self) -> "Series":
        """Return the steps at which the value is defined."""
        keep = np.isfinite(self.value)
        return Series(self.steps[keep], self.value[keep], self.null_mean[keep], self.null_sd[keep])

    def parts(self) -> tuple[Ints, Floats, Floats, Floats]:
        """Return the four columns in order."""
        return self.steps, self.value, self.null_mean, self.null_sd

    def scaled(self, factor: float) -> "Series":
        """Return the series in another unit."""
        return Series(
            self.steps, self.value * factor, self.null_mean * factor, self.null_sd * factor
        )


@dataclass(frozen=True)
class Frame:
    """Every averaged curve, found by run, diagnostic and quantity, then by definition."""

    curves: Mapping[tuple[str, str, str], Mapping[str, Series]]
    null_names: Mapping[str, tuple[str, ...]]
    num_matrices: int
    flags: Mapping[str, int]
    definitions: Mapping[str, tuple[str, ...]]

    def series(self, run: str, quantity: Quantity) -> Series | None:
        """Return the curve of a quantity, as stored unless its settings say otherwise."""
        held = self.curves.get((run, quantity.diagnostic, quantity.quantity), {})
        wanted = {"as": "stored", **quantity.settings}
        choices = [
            name for name in sorted(held) if _matches(definition_settings(name), quantity.settings)
        ]
        if not choices:
            return None
        stored = [name for name in choices if _matches(definition_settings(name), wanted)]
        return held[(stored or choices)[0]].scaled(quantity.factor)

    def settings(self, diagnostic: str, key: str) -> list[str]:
        """Return the values that one setting of a diagnostic takes, numbers in order."""
        found = {
            settings[key]
            for (_, name, _), held in self.curves.items()
            if name == diagnostic
            for settings in map(definition_settings, held)
            if key in settings
        }
        return sorted(found, key=lambda text: (int(text) if text.isdigit() else 0, text))


def _matches(settings: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a definition has the wanted settings; one without `as` counts as stored."""
    held = {"as": "stored", **settings}
    return all(held.get(key) == text for key, text in wanted.items())


def linear_only(readings: pa.Table) -> pa.Table:
    """Keep the matrices that averages are made of; vectors are none."""
    out = pc.is_in(readings["role"], value_set=pa.array(LEFT_OUT_ROLES, pa.string()))
    vector = pc.equal(readings["cols"], 1)
    return readings.filter(pc.invert(pc.fill_null(pc.or_(out, vector), False)))


def build_frame(readings: pa.Table) -> Frame:
    """Average the readings of each checkpoint over its linear matrices.

    The mean is unweighted, but for sparsity, which is weighted by the number of parameters. The
    standard deviation of an averaged null is that of independent matrices. A null is averaged over
    the matrices that the value is averaged over, and undefined where one of these has none.
    """
    linear = _one_reading_each(with_variant(linear_only(readings)))
    groups, codes = _groups(linear, ["run", "step", "diagnostic", "quantity", "variant"])
    size = len(groups)
    weight = np.ones(linear.num_rows)
    entries = _numbers(linear, "rows") * _numbers(linear, "cols")
    for diagnostic in WEIGHTED_DIAGNOSTICS:
        weighted = pc.equal(linear["diagnostic"], diagnostic).to_numpy()
        weight[weighted] = entries[weighted]
    columns = {name: _numbers(linear, name) for name in ("value", "null_mean", "null_sd")}
    # A null stands beside a value: it is averaged over the matrices that have one, and over these.
    defined = np.isfinite(columns["value"]) & np.isfinite(weight)
    codes, weight = codes[defined], weight[defined]
    value = _mean(columns["value"][defined], weight, codes, size)
    null_mean = _mean(columns["null_mean"][defined], weight, codes, size)
    null_sd = _spread(columns["null_sd"][defined], weight, codes, size)
    curves: dict[tuple[str, str, str], dict[str, list[tuple[Any, ...]]]] = {}
    for row, (run, step, diagnostic, quantity, text) in enumerate(groups):
        held = curves.setdefault((run, diagnostic, quantity), {}).setdefault(text, [])
        held.append((step, value[row], null_mean[row], null_sd[row]))
    tensors, _ = _groups(linear, ["tensor", "view"])
    return Frame(
        {key: {name: _series(rows) for name, rows in held.items()} for key, held in curves.items()},
        _null_names(linear),
        len(tensors),
        _flags(linear),
        _definitions(linear),
    )


def file_formats(table: pa.Table) -> dict[str, list[str]]:
    """Return the formats of each run's files, read as stored where there is a choice."""
    columns = ["run", "definition", "stored_precision"]
    rows = table.group_by(columns, use_threads=False).aggregate([]).to_pylist()
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        storage = definition_settings(row["definition"]).get("as", "stored")
        held = found.setdefault(row["run"], {}).setdefault(storage, set())
        held.add(row["stored_precision"] or "unknown")
    return {
        run: sorted(held.get("stored") or set().union(*held.values()))
        for run, held in found.items()
    }


def with_variant(table: pa.Table) -> pa.Table:
    """Add the column `variant`: the definition without the settings that fit it to a matrix."""
    encoded = table["definition"].combine_chunks().dictionary_encode()
    names = [_variant(text) for text in encoded.dictionary.to_pylist()]
    return table.append_column("variant", pa.array(names, pa.string()).take(encoded.indices))


def _variant(text: str) -> str:
    return ";".join(part for part in text.split(";") if part.split("=")[0] not in FITTED_SETTINGS)


def _one_reading_each(table: pa.Table) -> pa.Table:
    """Keep one reading where a matrix was measured twice under definitions fitted differently."""
    keys = ["run", "step", "tensor", "view", "diagnostic", "quantity", "variant"]
    _, first = np.unique(_codes(table, keys), return_index=True)
    return table if len(first) == table.num_rows else table.take(pa.array(np.sort(first)))


def _definitions(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Return, per diagnostic, every definition under which it was measured."""
    pairs, _ = _groups(table, ["diagnostic", "definition"])
    found: dict[str, tuple[str, ...]] = {}
    for diagnostic, text in sorted(pairs):
        found[diagnostic] = (*found.get(diagnostic, ()), text)
    return found


def _series(rows: list[tuple[Any, ...]]) -> Series:
    steps, value, null_mean, null_sd = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    return Series(
        np.array(steps, np.int64), np.array(value), np.array(null_mean), np.array(null_sd)
    )


def _codes(table: pa.Table, keys: list[str]) -> Ints:
    """Number the key tuple of each row; equal tuples, equal numbers."""
    code = np.zeros(table.num_rows, np.int64)
    for key in keys:
        column = table[key].combine_chunks().dictionary_encode()
        indices = column.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        code = code * (len(column.dictionary) + 1) + indices
    return code


def _groups(table: pa.Table, keys: list[str]) -> tuple[list[tuple[Any, ...]], Ints]:
    """Return the distinct key tuples of a table, and each row's place among them."""
    code = _codes(table, keys)
    _, first, codes = np.unique(code, return_index=True, return_inverse=True)
    picked = table.select(keys).take(pa.array(first))
    return list(zip(*(picked[key].to_pylist() for key in keys), strict=True)), codes


def _numbers(table: pa.Table, name: str) -> Floats:
    """Return a column as float64, null as NaN."""
    column = pc.cast(table[name], pa.float64())
    return np.array(column.to_numpy(), dtype=np.float64)


def _mean(column: Floats, weight: Floats, codes: Ints, size: int) -> Floats:
    """Average by group; one undefined number makes the mean of its group undefined."""
    return _ratio(_sums(codes, weight * column, size), _sums(codes, weight, size))


def _spread(column: Floats, weight: Floats, codes: Ints, size: int) -> Floats:
    """Return the deviation of a mean; a closed form has none of its own and adds nothing."""
    square = _sums(codes, (weight * np.nan_to_num(column)) ** 2, size)
    known = _sums(codes, np.isfinite(column).astype(np.float64), size) > 0
    return np.where(known, _ratio(np.sqrt(square), _sums(codes, weight, size)), np.nan)


def _sums(codes: Ints, numbers: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(codes, numbers, size), dtype=np.float64)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _null_names(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Return, per quantity, the names of the primary nulls that stand beside it."""
    pairs, _ = _groups(table, ["quantity", "null"])
    names: dict[str, tuple[str, ...]] = {}
    for quantity, null in sorted((q, n) for q, n in pairs if n):
        names[quantity] = (*names.get(quantity, ()), null)
    return names


def _flags(table: pa.Table) -> dict[str, int]:
    """Count the readings that carry each flag."""
    counts: dict[str, int] = {}
    rows = table.group_by("flags", use_threads=False).aggregate([([], "count_all")])
    for text, count in zip(rows["flags"].to_pylist(), rows["count_all"].to_pylist(), strict=True):
        for flag in (text or "").replace(",", ";").split(";"):
            if flag.strip():
                counts[flag.strip()] = counts.get(flag.strip(), 0) + count
    return dict(sorted(counts.items()))


def training_curves(training: pa.Table) -> dict[tuple[str, str], tuple[Ints, Floats]]:
    """Return what training logged, per run and quantity: steps and values."""
    groups: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in training.to_pylist():
        if row["value"] is not None:
            groups.setdefault((row["run"], row["quantity"]), []).append((row["step"], row["value"]))
    return {
        key: (
            np.array([step for step, _ in sorted(rows)], np.int64),
            np.array([value for _, value in sorted(rows)]),
        )
        for key, rows in sorted(groups.items())
    }
