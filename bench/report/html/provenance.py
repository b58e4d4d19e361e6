"""Where the numbers of a block come from."""

from typing import Any

from bench.report.marks import Block


def provenance(block: Block) -> list[tuple[str, str]]:
    """Names and distinct values of what the runs of a block were made from, by and on."""
    group = block.group
    records = [run.record for row in group.rows for run in row.runs]
    facts: dict[str, list[Any]] = {
        "data": [f"{group.dataset['name']}, split {group.dataset['split']}"],
        "data fingerprint": [group.dataset["fingerprint"]],
        "candidates": [f"{group.candidates.label}, seed {group.candidates.seed}"],
        "candidates fingerprint": [group.candidates.fingerprint],
        "counts": [", ".join(f"{value:,} {name}" for name, value in group.dataset.get("counts", {}).items())],
        "budget": [record.budget for record in records],
        "seeds": [record.seed for record in records],
        "finished": [f"{min(r.finished for r in records)} to {max(r.finished for r in records)}"],
        "commit": [
            f"{record.environment.get('commit') or 'unknown'}{' with changes' if record.environment.get('dirty') else ''}"
            for record in records
        ],
        "packages": [
            ", ".join(f"{name} {version}" for name, version in (r.environment.get("packages") or {}).items() if version)
            for r in records
        ],
        "machine": [
            ", ".join(
                f"{name} {r.environment[name]}"
                for name in ("system", "cpu", "cores", "memory_gib", "gpu")
                if r.environment.get(name)
            )
            for r in records
        ],
        "commands": [record.environment.get("command") for record in records],
    }
    return [
        (name, "\n".join(map(str, distinct)))
        for name, values in facts.items()
        if (distinct := [value for value in dict.fromkeys(values) if value not in (None, "")])
    ]


def settings_text(config: dict[str, Any]) -> str:
    """The settings of a model, one a line."""
    return "\n".join(f"{name} = {value}" for name, value in config.items()) or "no settings"
