"""What the metrics of `rabitc train` say, as rows and Markdown tables."""

import json
import math
import statistics


def records(path):
    """The records of a metrics.jsonl by kind; a last line that was cut off is left out."""
    kinds = {"run": [], "step": [], "validation": [], "layers": []}
    text = path.read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        kinds[record["kind"]].append(record)
    return kinds


def steady(speeds):
    """The median speed after a quarter of the updates, which set things up."""
    speeds = speeds[len(speeds) // 4 :]
    return statistics.median(speeds) if speeds else None


def correlation(layers):
    """The weighted correlation of paths: mean over pairs, then over layers; None for one path."""
    means = [statistics.fmean(layer["weighted"]) for layer in layers if layer["weighted"]]
    return statistics.fmean(means) if means else None


def row(run, kinds, seconds):
    """Everything that is told of a run. `seconds` is the time of the whole process."""
    validations, steps = kinds["validation"], kinds["step"]
    # A run of length 0 is about its beginning.
    last = validations[-1] if run.length else validations[0]
    steps = steps if run.length else []
    layers = [record["layers"] for record in kinds["layers"]]
    memory = kinds["run"][0]["memory"]
    return {
        "run": run.name(),
        "recipe": run.recipe(),
        "options": run.settings(),
        "engine": kinds["run"][0]["engine"],
        "teacher_perplexity": last["teacher_perplexity"],
        "windows": last["windows"],
        "window": last["window"],
        "first_kl": validations[0]["kl"],
        "first_perplexity": validations[0]["perplexity"],
        "kl": last["kl"],
        "perplexity": last["perplexity"],
        "steps": len(steps),
        "tokens": steps[-1]["tokens"] if steps else 0,
        "tokens_per_second": steady([step["tokens_per_second"] for step in steps]),
        "first_correlation": correlation(layers[0]) if layers else None,
        "correlation": correlation(layers[-1 if run.length else 0]) if layers else None,
        "optimizer_bytes_per_binarized_weight": memory["optimizer_per_binarized"],
        "seconds": seconds,
        "curve": [(v["step"], v["kl"], v["perplexity"]) for v in validations],
    }


def number(value, digits):
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


COLUMNS = [
    ("initial KL", "first_kl", 4),
    ("initial perplexity", "first_perplexity", 2),
    ("KL", "kl", 4),
    ("perplexity", "perplexity", 2),
    ("teacher's", "teacher_perplexity", 2),
    ("steps", "steps", 0),
    ("tokens/s", "tokens_per_second", 0),
    ("initial weighted correlation", "first_correlation", 4),
    ("weighted correlation", "correlation", 4),
    ("optimizer bytes a binarized weight", "optimizer_bytes_per_binarized_weight", 2),
    ("seconds", "seconds", 1),
]


def runs(sets, rows, reasons):
    """One table of all runs, set by set; a run that has no row says why."""
    lines = ["| set | run | " + " | ".join(title for title, _, _ in COLUMNS) + " |"]
    lines.append("|---|---|" + "---:|" * len(COLUMNS))
    for name, members in sets.items():
        for run in members:
            if (found := rows.get(run.name())) is not None:
                cells = [number(found[key], digits) for _, key, digits in COLUMNS]
            else:
                cells = [reasons.get(run.name(), "not run")] + [""] * (len(COLUMNS) - 1)
            lines.append(f"| {name} | {run.name()} | " + " | ".join(cells) + " |")
    return lines


def seeds(members, rows):
    """What several seeds of a recipe reached, against the recipe that is named first."""
    groups = {}
    for run in members:
        if run.name() in rows:
            seed = run.settings()["seed"]
            groups.setdefault(run.recipe(), {})[seed] = rows[run.name()]
    if not groups or max(map(len, groups.values())) < 2:
        return []
    lines = ["| recipe | seeds | KL, mean | range | difference | perplexity, mean |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    base = groups.get(members[0].recipe(), {})
    for recipe, group in groups.items():
        kls = [found["kl"] for found in group.values()]
        # Seed by seed: a recipe that lacks one is not compared on it.
        apart = [group[s]["kl"] - base[s]["kl"] for s in group.keys() & base.keys()]
        cells = [recipe, len(group), f"{statistics.fmean(kls):.4f}", f"{max(kls) - min(kls):.4f}"]
        cells.append(f"{statistics.fmean(apart):+.4f}" if apart else "")
        cells.append(f"{statistics.fmean(f['perplexity'] for f in group.values()):.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def reached(curve, level):
    """The step at which a curve first is at `level`, between measurements linear in log KL."""
    before = None
    for step, kl, _ in curve:
        if kl <= level:
            if before is None or before[1] <= kl:
                return float(step)
            share = math.log(before[1] / level) / math.log(before[1] / kl)
            return before[0] + share * (step - before[0])
        before = (step, kl)
    return None


def saved(members, rows):
    """Steps that each initialisation saves against greedy at equal KL, by length of schedule."""
    lines = []
    for length in dict.fromkeys(run.length for run in members):
        here = {r.settings()["init"]: rows.get(r.name()) for r in members if r.length == length}
        greedy = here.pop("greedy", None)
        here = {init: found for init, found in here.items() if found}
        if greedy is None or not here:
            continue
        total = greedy["steps"]
        lines += ["", f"Steps saved against greedy at equal KL, schedule of {total} steps:", ""]
        lines.append("| greedy at step | KL | " + " | ".join(here) + " |")
        lines.append("|---:|---:|" + "---:|" * len(here))
        for step, kl, _ in greedy["curve"]:
            at = [reached(found["curve"], kl) for found in here.values()]
            cells = ["not reached" if a is None else f"{step - a:.0f}" for a in at]
            lines.append(f"| {step} | {kl:.4f} | " + " | ".join(cells) + " |")
    return lines
