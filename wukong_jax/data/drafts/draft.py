"""Drafts a schema from the profiles of the columns: labels, time, features, what is left out, and why."""

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from wukong_jax.data.drafts.bags import parts_of
from wukong_jax.data.drafts.column_names import names_a_user
from wukong_jax.data.drafts.columns import decide_column, may_be_numbers
from wukong_jax.data.drafts.decisions import Decision, to_keep, to_leave_out
from wukong_jax.data.drafts.labels import DraftedLabel, draft_label
from wukong_jax.data.drafts.leaks import single_column_auc, telling_value, value_codes
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.moments import (
    Moment,
    choose_split,
    find_moment,
    moment_of,
    moment_of_parts,
    share_of_new_values,
)
from wukong_jax.data.drafts.profiles import MARKS, PLAIN_MARKS, ColumnProfile
from wukong_jax.data.drafts.roles import Roles
from wukong_jax.data.drafts.scan import Scan
from wukong_jax.errors import UserError
from wukong_jax.messages import join_some
from wukong_jax.schema import CategoricalColumn, DenseColumn, Schema, Split

_MANY_DOMAINS = 100


@dataclasses.dataclass(frozen=True)
class Draft:
    """A drafted schema, with what was decided of every column."""

    schema: Schema
    decisions: tuple[Decision, ...]  # in file order
    rows: int
    notes: tuple[str, ...]  # the layout, the split, missing marks, bad rows


def draft_schema(name: str, scan: Scan, roles: Roles, limits: Limits) -> Draft:
    """Drafts a schema.

    Args:
      name: name of the schema.
      scan: what is known of the files.
      roles: what the user says of the columns.
      limits: limits of the rules.

    Returns:
      The draft.

    Raises:
      UserError: a named column does not exist or cannot have its role, a label is not plain, or no feature is left.
    """
    profiles, header_padded = _trim_names(scan)
    _check_named(roles, profiles, scan)
    marks = recognise_marks(tuple(profiles.values()), tuple(roles.labels), limits)
    profiles = {column: profile.without_marks(marks) for column, profile in profiles.items()}
    labels = {column: draft_label(profiles[column], hints) for column, hints in roles.labels.items()}
    moment = _choose_moment(profiles, roles)
    split, why = choose_split(moment, limits)
    decisions = [_decide(profile, roles, labels, moment, limits) for profile in profiles.values()]
    decisions = [_judge_leak(decision, labels, roles, limits) for decision in decisions]
    if moment is not None and split.by == "time":
        decisions = [_judge_news(decision, moment, roles, limits) for decision in decisions]
    decisions = share_vocabularies(decisions, limits)
    group = _choose_group(decisions, roles)
    used = {decision.name for decision in decisions if decision.kind != "left out"}
    strip = header_padded or any(profile.padded and column in used for column, profile in profiles.items())
    schema = _assemble(name, scan, labels, decisions, moment, split, roles, group, marks, strip)
    decisions = [_name_role(decision, roles, group) for decision in decisions]
    notes = _notes(scan, split, why, marks, strip)
    return Draft(schema, tuple(decisions), scan.rows, notes)


def recognise_marks(profiles: Sequence[ColumnProfile], labels: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Returns the texts that mean "no value".

    These are marks in a column of numbers or dates; plain ones, such as NULL, that are frequent in a column; and plain
    ones in a label, which would otherwise count as 0.
    """
    found: set[str] = set()
    for profile in profiles:
        stand_out = profile.numbers is not None or bool(profile.date_forms)
        for mark, rows in profile.marks.items():
            plain = mark in PLAIN_MARKS and (profile.name in labels or rows >= limits.frequent_mark * profile.rows)
            if stand_out or plain:
                found.add(mark)
    return tuple(mark for mark in MARKS if mark in found)


def _trim_names(scan: Scan) -> tuple[dict[str, ColumnProfile], bool]:
    text = scan.layout.source.format == "csv"
    trimmed = [profile.name.strip() if text else profile.name for profile in scan.columns]
    padded = any(name != profile.name for name, profile in zip(trimmed, scan.columns, strict=True))
    if len(set(trimmed)) < len(trimmed):
        twice = next(name for name in trimmed if trimmed.count(name) > 1)
        raise UserError(f"column {twice!r} is named twice (without the blanks around it); rename one")
    pairs = zip(trimmed, scan.columns, strict=True)
    return {name: dataclasses.replace(profile, name=name) for name, profile in pairs}, padded


def _check_named(roles: Roles, profiles: Mapping[str, ColumnProfile], scan: Scan) -> None:
    taken: dict[str, str] = {}
    for flag, name in roles.named():
        if name not in profiles:
            shown = join_some(list(profiles), 12)
            fix = (
                ""
                if scan.layout.source.header or scan.layout.source.format == "parquet"
                else " (name them by --columns)"
            )
            raise UserError(f"--{flag}={name}: no such column; the file has {shown}{fix}")
        if flag in ("label", "timestamp", "weight", "drop"):
            if name in taken:
                raise UserError(f"--{flag}={name}: is --{taken[name]} too; name it once")
            taken[name] = flag
    for flag, name in roles.named():
        if flag in ("group", "domain", "keep") and name in taken:
            raise UserError(f"--{flag}={name}: is --{taken[name]} too; name it once")


def _choose_moment(profiles: Mapping[str, ColumnProfile], roles: Roles) -> Moment | None:
    if len(roles.timestamp) == 1:
        return moment_of(profiles[roles.timestamp[0]])
    if roles.timestamp:
        moment = moment_of_parts([profiles[name] for name in roles.timestamp])
        if moment is None:
            raise UserError(
                f"--timestamp={','.join(roles.timestamp)}: not a column of years, one of months and one of days; name "
                "them in this order, or one column"
            )
        return moment
    taken = {name for flag, name in roles.named() if flag != "group"}
    return find_moment([profile for name, profile in profiles.items() if name not in taken])


def _decide(
    profile: ColumnProfile, roles: Roles, labels: Mapping[str, DraftedLabel], moment: Moment | None, limits: Limits
) -> Decision:
    name = profile.name
    if name in labels:
        return Decision(profile, "label", labels[name].reason)
    if name in roles.drop:
        return Decision(profile, "left out", "you said so")
    if name and name == roles.weight:
        if profile.numbers is None or profile.numbers.minimum < 0 or profile.empty:
            raise UserError(f"--weight={name}: needs a number from 0 on in every row")
        return Decision(profile, "weight", "row weights")
    if moment is not None and moment.columns == (name,):
        return Decision(profile, "time", moment.reason, moment.unsure)
    if moment is not None and name == moment.columns[0]:
        return Decision(profile, "time", f"with {' and '.join(moment.columns[1:])}: {moment.reason}", moment.unsure)
    decision = decide_column(profile, limits, keep=name in roles.keep)
    if name in roles.keep and decision.kind == "left out":
        raise UserError(f"--keep={name}: cannot be used: {decision.reason}")
    if profile.date_forms and may_be_numbers(profile) and decision.kind != "left out" and profile.date_forms[0].unit:
        return decision.doubt(f"may be {profile.date_forms[0]}: then --timestamp={name}")
    return decision


def _judge_leak(decision: Decision, labels: Mapping[str, DraftedLabel], roles: Roles, limits: Limits) -> Decision:
    """Leaves out a feature that alone tells a label, and doubts one that nearly does."""
    if decision.entry is None:
        return decision
    name, sample = decision.name, decision.profile.sample
    codes = value_codes(sample, number=isinstance(decision.entry, DenseColumn))
    for label in labels.values():
        given = label.given
        auc = single_column_auc(codes[given], label.values[given])
        best = max(auc, 1 - auc) if auc is not None else 0.0
        if best >= limits.leak_auc and name not in roles.keep:
            words = f"tells {label.entry.name} by itself (AUC {best:.3f}): is the label, or known only after it"
            return decision.leave_out(words, f"if it is known before, {to_keep(name)}")
        telling = telling_value(codes[given], label.values[given])
        if best >= limits.suspect_auc:
            decision = decision.doubt(
                f"alone it gives {label.entry.name} an AUC of {best:.3f}; if known only after it, {to_leave_out(name)}"
            )
        elif telling is not None and telling[1] >= 0.2:
            value = sample.filter(pl.Series(given)).filter(pl.Series(codes[given] == telling[0]))[0]
            shown = "no value" if value is None else repr(value)
            decision = decision.doubt(
                f"all rows with {shown} have {label.entry.name} = 1; if known only after it, {to_leave_out(name)}"
            )
    return decision


def _judge_news(decision: Decision, moment: Moment, roles: Roles, limits: Limits) -> Decision:
    """Leaves out ids of which the newest rows mostly have new ones, about which nothing can be learnt."""
    if decision.kind != "category" or decision.name in roles.keep or decision.profile.distinct <= limits.rare_above:
        return decision
    share = share_of_new_values(decision.profile.sample, moment)
    if share < limits.new_values:
        return decision
    words = f"{share:.0%} of the newest rows have a value that no earlier row has"
    return decision.leave_out(words, f"for a split at random, {to_keep(decision.name)}")


def share_vocabularies(decisions: Sequence[Decision], limits: Limits) -> list[Decision]:
    """Lets a sequence share the vocabulary of the category that has most of the same ids."""
    owners = [d for d in decisions if d.kind == "category"]
    known = {d.name: set(d.profile.values["value"]) for d in owners}
    shared = []
    for decision in decisions:
        entry = decision.entry
        if decision.kind == "sequence" and isinstance(entry, CategoricalColumn):
            parts = parts_of(decision.profile, entry.separator or "")
            found = {name: len(parts & values) / len(parts | values) for name, values in known.items()}
            owner = max(found, key=lambda name: found[name], default="")
            if owner and found[owner] >= limits.shared_values:
                fields = {"separator": entry.separator, "max_length": entry.max_length, "vocabulary_of": owner}
                decision = dataclasses.replace(decision, entry=CategoricalColumn(entry.name, **fields))  # type: ignore[arg-type]
                decision = decision.doubt(
                    f'shares the vocabulary of {owner}; if the ids differ, remove "vocabulary_of"'
                )
        shared.append(decision)
    return shared


def _choose_group(decisions: Sequence[Decision], roles: Roles) -> str:
    if roles.group:
        return roles.group
    taken = {name for _, name in roles.named()}
    for decision in decisions:
        profile = decision.profile
        plain = decision.kind in ("category", "left out") and profile.type in ("text", "number")
        if (
            plain
            and names_a_user(decision.name)
            and 2 * profile.distinct <= profile.given
            and decision.name not in taken
        ):
            return decision.name
    return ""


def _name_role(decision: Decision, roles: Roles, group: str) -> Decision:
    """Says in the reason that a column also groups rows or is the domain."""
    roles_of = [
        word for word, name in (("groups rows for GAUC", group), ("the domain", roles.domain)) if name == decision.name
    ]
    if not decision.name or not roles_of:
        return decision
    many = decision.name == roles.domain and decision.profile.distinct > _MANY_DOMAINS
    reason = "; ".join([decision.reason, *roles_of])
    kind = decision.kind
    if kind == "left out":
        kind = "domain" if decision.name == roles.domain else "group"
    renamed = dataclasses.replace(decision, reason=reason, kind=kind)
    return (
        renamed.doubt(f"{decision.profile.distinct:,} domains are many; metrics are kept for each") if many else renamed
    )


def _assemble(
    name: str,
    scan: Scan,
    labels: Mapping[str, DraftedLabel],
    decisions: Sequence[Decision],
    moment: Moment | None,
    split: Split,
    roles: Roles,
    group: str,
    marks: Sequence[str],
    strip: bool,
) -> Schema:
    features = [decision for decision in decisions if decision.entry is not None]
    if not features:
        shown = "; ".join(f"{d.name}: {d.reason}" for d in decisions if d.kind == "left out")
        raise UserError(
            f"no column is left as a feature ({shown or 'the file has no other columns'}); pass --keep=NAME"
        )
    source = scan.layout.source
    if source.format == "csv":
        source = dataclasses.replace(source, missing=("", *marks), strip=strip)
    single = moment is not None and len(moment.columns) == 1
    return Schema(
        name=name,
        source=source,
        split=split,
        labels=tuple(label.entry for label in labels.values()),
        dense=tuple(d.entry for d in features if isinstance(d.entry, DenseColumn)),
        categorical=tuple(d.entry for d in features if isinstance(d.entry, CategoricalColumn) and d.kind != "sequence"),
        sequences=tuple(d.entry for d in features if isinstance(d.entry, CategoricalColumn) and d.kind == "sequence"),
        domain=roles.domain or None,
        timestamp=moment.columns[0] if moment is not None and single else None,
        timestamp_parts=moment.columns if moment is not None and not single else (),
        timestamp_unit=(moment.form.unit or "s") if moment is not None else "s",
        timestamp_format=moment.form.form if moment is not None else None,
        group=group or None,
        weight=roles.weight or None,
    )


def _notes(scan: Scan, split: Split, why: str, marks: Sequence[str], strip: bool) -> tuple[str, ...]:
    notes = [f"{scan.rows:,} rows, {scan.layout.note}"]
    if scan.sampled:
        notes.append(
            f"shares, tails, bags and leaks are from a sample of {scan.sample_rows:,} rows; kinds hold for all rows"
        )
    if marks:
        notes.append(f"no value: empty, {', '.join(marks)}")
    if strip:
        notes.append("blanks around values are trimmed")
    notes.append(f"split by {split.by}: {why}")
    if scan.bad_rows:
        notes.append(f"{scan.bad_rows:,} rows cannot be read, first {scan.bad_example}; mend them or leave them out")
    return tuple(notes)
