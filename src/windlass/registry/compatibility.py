"""Whether one version may stand in for another: it takes all that callers send now, and gives all that they read.

Asked before an alias moves or goes back. Pure: knows no store and no registry. Must never answer yes on a doubt.
"""

from __future__ import annotations

from windlass.types import manifest, signature


def breaks(new: manifest.Manifest, old: manifest.Manifest) -> tuple[str, ...]:
    """One sentence for each way in which callers of `old` would notice `new`; empty if they would not."""
    found = list(signature_breaks(new.signature, old.signature))
    _fields(new, old, found)
    for field in ("max_batch", "max_elements", "max_body"):
        mine, theirs = getattr(new.limits, field), getattr(old.limits, field)
        if mine < theirs:
            found.append(f"the limit {field} falls from {theirs} to {mine}")
    if new.labels != old.labels:
        found.append(f"the labels change from {_listed(old.labels)} to {_listed(new.labels)}")
    return tuple(found)


def _fields(new: manifest.Manifest, old: manifest.Manifest, found: list[str]) -> None:
    """What people send, before the transforms: a form, a CSV file's columns, a picture."""
    known = {field.name for field in old.fields}
    if new.fields and not old.fields:
        found.append("people must now send fields, and sent tensors")
    found.extend(
        f"the field '{field.name}' is new and required, and callers do not send it"
        for field in new.fields
        if field.required and field.name not in known
    )
    offered = {field.name: field for field in new.fields}
    for before in old.fields:
        after = offered.get(before.name)
        if after is None:
            found.append(f"the field '{before.name}' is no longer taken")
            continue
        if after.kind != before.kind:
            found.append(f"the field '{before.name}' changes from {before.kind} to {after.kind}")
        if after.required and not before.required:
            found.append(f"the field '{before.name}' is now required")
        if after.categories and not (before.categories and set(before.categories) <= set(after.categories)):
            found.append(f"the field '{before.name}' takes fewer categories")
    found.extend(f"a body of {kind} is no longer taken" for kind in old.media if kind not in new.media)


def signature_breaks(new: signature.Signature, old: signature.Signature) -> tuple[str, ...]:
    """One sentence for each thing that `old` accepts and `new` does not, or that `old` gives and `new` does not."""
    found: list[str] = []
    _inputs(new, old, found)
    _outputs(new, old, found)
    return tuple(found)


def _inputs(new: signature.Signature, old: signature.Signature, found: list[str]) -> None:
    known = {spec.name: spec for spec in old.inputs}
    found.extend(f"input '{s.name}' is new, and callers do not send it" for s in new.inputs if s.name not in known)
    offered = {spec.name: spec for spec in new.inputs}
    sizes: dict[str, set[int | str]] = {}
    for before in old.inputs:
        after = offered.get(before.name)
        if after is None:
            found.append(f"input '{before.name}' is no longer taken")
            continue
        what = f"input '{before.name}'"
        _same_kind(what, after, before, found)
        if len(after.shape) == len(before.shape):
            _accepts_shape(what, (new, after), (old, before), sizes, found)
        _accepts_values(what, after, before, found)
    if new.batched and not old.batched and any(signature.BATCH in spec.shape for spec in old.inputs):
        found.append("the rows of a request are now bounded by the batch, and were not")
    for name, sent in sizes.items():
        # One name on several axes demands that they agree: callers must already be held to that.
        if len(sent) > 1:
            found.append(f"dimension '{name}' must now be the same wherever it occurs, and callers may send several")


def _outputs(new: signature.Signature, old: signature.Signature, found: list[str]) -> None:
    given = {spec.name: spec for spec in new.outputs}
    for before in old.outputs:
        after = given.get(before.name)
        what = f"output '{before.name}'"
        if after is None:
            found.append(f"{what} is no longer given")
            continue
        _same_kind(what, after, before, found)
        if len(after.shape) == len(before.shape):
            # Roles turn round: what the new one gives must be among what readers of the old one expect.
            _accepts_shape(what, (old, before), (new, after), {}, found)
        if before.shape[:1] == (signature.BATCH,) and after.shape[:1] != (signature.BATCH,):
            found.append(f"{what} no longer has a row for each row of the input")
        if before.categories != after.categories:
            found.append(f"the categories of {what} change")


def _same_kind(what: str, after: signature.TensorSpec, before: signature.TensorSpec, found: list[str]) -> None:
    if after.datatype != before.datatype:
        found.append(f"{what} changes from {before.datatype} to {after.datatype}")
    if len(after.shape) != len(before.shape):
        found.append(f"{what} changes from {len(before.shape)} dimensions to {len(after.shape)}")
    if before.unit and after.unit != before.unit:
        found.append(f"the unit of {what} changes from '{before.unit}' to '{after.unit}'")


def _accepts_shape(
    what: str,
    wide: tuple[signature.Signature, signature.TensorSpec],
    narrow: tuple[signature.Signature, signature.TensorSpec],
    sizes: dict[str, set[int | str]],
    found: list[str],
) -> None:
    """Every shape of `narrow` must be one of `wide`; `sizes` gathers what each dimension of `wide` is bound to."""
    for axis, (outer, inner) in enumerate(zip(wide[1].shape, narrow[1].shape, strict=True)):
        if isinstance(outer, str):
            sizes.setdefault(outer, set()).add(inner)
        low, high = _range(wide[0], outer)
        least, most = _range(narrow[0], inner)
        free = isinstance(inner, str) and inner != signature.BATCH
        if outer == signature.BATCH and free:
            found.append(f"axis {axis} of {what} becomes the batch, and was free")
        if least < low or (high is not None and (most is None or most > high)):
            found.append(f"axis {axis} of {what} takes {_words(low, high)}, and was {_words(least, most)}")


def _range(owner: signature.Signature, size: int | str) -> tuple[int, int | None]:
    if isinstance(size, int):
        return size, size
    # The rows of a batch are bounded by the limits, which are compared apart.
    known = signature.Dimension() if size == signature.BATCH else owner.dimension(size)
    return known.minimum, known.maximum


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(f"'{label}'" for label in labels[:8]) + (", ..." if len(labels) > 8 else "") or "none"


def _words(low: int, high: int | None) -> str:
    if low == high:
        return f"{low}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _accepts_values(what: str, after: signature.TensorSpec, before: signature.TensorSpec, found: list[str]) -> None:
    if after.minimum is not None and (before.minimum is None or before.minimum < after.minimum):
        found.append(f"the least value of {what} rises to {after.minimum}")
    if after.maximum is not None and (before.maximum is None or before.maximum > after.maximum):
        found.append(f"the greatest value of {what} falls to {after.maximum}")
    if after.categories and not (before.categories and set(before.categories) <= set(after.categories)):
        found.append(f"{what} takes fewer categories")
    if after.missing == "refuse" and before.missing == "allow":
        found.append(f"{what} takes no missing values any more")
