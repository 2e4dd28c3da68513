"""The named sets of runs of `benches/train/books`."""

import dataclasses

# What every run has unless its set says otherwise: options of `rabitc train` without their dashes.
BASE = {
    "method": "rabit",
    "paths": "2",
    "lr": "3e-4",
    "lr-scales": "1e-3",
    "lr-rest": "3e-4",
    "lr-final": "0",
    "warmup": "50",
    "hidden": "0.1",
    "hidden-norm": "rows",
    "text-loss": "0",
    "diversity": "0",
    "weight-decay": "0",
    "clip": "1",
    "beta2": "0.95",
    "init": "importance",
    "init-exponent": "0.75",
    "seed": "0",
    "validate-every": "0",
}

# What is off unless a set says otherwise, and then not given.
OFF = {"noise": "0", "noise-from": "text", "noise-span": "1", "noise-order": "1"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: the options in which it differs from BASE, and its length and shape."""

    options: tuple
    # Share of the updates that a run usually has; 0 for one update, of which nothing is reported.
    length: float = 1.0
    # How often a sequence is as long as usual; a batch has as many fewer.
    longer: int = 1

    def settings(self):
        """All options."""
        return BASE | OFF | dict(self.options)

    def passes(self):
        """Passes over a batch for one update, to tell how long runs take beside each other: student
        and teacher forward, the student backward as two, and what the teacher writes."""
        settings = self.settings()
        writes = settings["noise"] != "0" and settings["noise-from"] == "teacher"
        return 4 + (int(settings["noise-span"]) if writes else 0)

    def recipe(self):
        """The name without the seed."""
        settings = self.settings()
        words = [settings["method"], f"k{settings['paths']}", f"lr{settings['lr']}"]
        skipped = ("method", "paths", "lr", "seed", "validate-every")
        changed = {k: v for k, v in self.options if k not in skipped and (BASE | OFF)[k] != v}
        words += [f"{key}={value}" for key, value in changed.items()]
        if self.length == 0:
            words.append("start")
        elif self.length != 1:
            words.append(f"x{self.length:g}")
        if self.longer != 1:
            words.append(f"seq-len-x{self.longer}")
        if settings["validate-every"] != BASE["validate-every"]:
            words.append("curve")
        return "-".join(words)

    def name(self):
        """The same for equal runs, whatever set they are in; also the name of a folder."""
        return f"{self.recipe()}-seed{self.settings()['seed']}"

    def arguments(self, shape):
        """The command line after the teacher; `shape` has steps, batch and seq_len."""
        steps = max(1, round(shape.steps * self.length))
        batch, seq_len = max(1, shape.batch // self.longer), shape.seq_len * self.longer
        words = ["--steps", steps, "--batch", batch, "--seq-len", seq_len]
        for key, value in self.settings().items():
            if OFF.get(key) == value:
                continue
            words += [f"--{key}", value]
        return [str(word) for word in words]


def run(length=1.0, longer=1, **options):
    """A run; options with underscores in place of dashes."""
    options = {key.replace("_", "-"): value for key, value in options.items()}
    unknown = options.keys() - (BASE | OFF).keys()
    assert not unknown, unknown
    return Run(tuple(options.items()), length, longer)


def seeded(runs):
    """Each run with seeds 0 and 1, all of seed 0 first."""
    return [dataclasses.replace(r, options=(*r.options, ("seed", s))) for s in "01" for r in runs]


def starts():
    """What each initialisation is before training."""
    exponents = [run(0, init_exponent=x) for x in ("0.75", "0.25", "0.5", "1.0")]
    return [run(0, init="greedy"), run(0, init="iterative"), *exponents]


def judged():
    """Methods and rates at two paths, and one to four paths for as many tokens as they get."""
    methods = [run(method=m, lr=lr) for m in ("rabit", "independent") for lr in ("3e-4", "1e-3")]
    lengths = {"1": 1.0, "2": 1.0, "3": 0.77, "4": 0.65}
    return methods + [run(length, paths=k, lr="5e-4") for k, length in lengths.items()]


def methods():
    """Every method at two, three and four paths, one rate and equal tokens."""
    names = ("rabit", "independent", "frozen")
    return [run(method=m, paths=k, lr="5e-4") for k in "234" for m in names]


def ablation():
    """The usual recipe at half its length, and with one part changed at a time."""
    parts = [
        {},
        {"hidden": "0"},
        {"hidden": "1"},
        {"init": "greedy"},
        {"init": "iterative"},
        {"lr_scales": "0"},
        {"lr_rest": "0"},
        {"noise": "0.1"},
        {"text_loss": "0.1"},
        {"diversity": "0.1"},
        {"weight_decay": "0.1"},
        {"warmup": "0"},
    ]
    return seeded([run(0.5, **part) for part in parts])


def candidates():
    """What might be better than the usual recipe, the most promising first."""
    parts = [
        {"lr": "5e-4"},
        # Sequences as long as the windows that are measured.
        {"lr": "5e-4", "longer": 2},
        {"lr": "5e-4", "hidden": "1"},
        {"lr": "7e-4"},
        {"lr": "5e-4", "beta2": "0.99"},
        {"lr": "5e-4", "lr_rest": "1e-3"},
        {"lr": "5e-4", "hidden": "0.3"},
        {"lr": "5e-4", "lr_scales": "3e-3"},
        {"lr": "5e-4", "text_loss": "0.05"},
        {"lr": "5e-4", "hidden_norm": "target"},
        {"lr": "5e-4", "warmup": "150"},
        {"lr": "5e-4", "lr_final": "0.1"},
    ]
    return seeded([run(**part) for part in parts])


def noise():
    """Amounts of noise in the text, and where it comes from."""
    parts = [
        {"noise": "0.1"},
        {"noise": "0.05"},
        {"noise": "0.3"},
        {"noise": "0.1", "noise_order": "0"},
        {"noise": "0.1", "noise_order": "2"},
        {"noise": "0.1", "lr": "5e-4"},
        {"noise": "0.1", "longer": 2},
        {"noise": "0.1", "method": "independent"},
        written("0.1"),
        written("0.2"),
        written("0.3", "4"),
        written("0.5", "8"),
    ]
    return seeded([run(**part) for part in parts])


def written(share, span="1"):
    """Options of noise that the teacher writes."""
    return {"noise": share, "noise_from": "teacher", "noise_span": span}


def slower_scales():
    """A slower rate of the scales: with and without noise, at other lengths, paths and rates."""
    parts = [
        {},
        {"noise": "0.1"},
        written("0.1"),
        written("0.3", "4"),
        written("0.3", "4") | {"lr": "5e-4"},
        {"method": "independent"},
        written("0.3", "4") | {"method": "independent"},
    ]
    slow = {"lr_scales": "3e-4"}
    lengths = [run(x, **options) for x in (0.5, 0.25, 0.1) for options in (slow, {})]
    paths = {"1": 1.0, "3": 0.77, "4": 0.65}
    paths = [run(x, paths=k, lr="5e-4", **slow) for k, x in paths.items()]
    others = [
        run(0.77, paths="3", lr="5e-4", **written("0.3", "4"), **slow),
        run(**written("0.3", "4"), lr_scales="1e-4"),
    ]
    return seeded([run(**part, **slow) for part in parts]) + lengths + paths + others


def curves():
    """Each initialisation, measured often, at full length and with shorter schedules."""
    inits = ("greedy", "iterative", "importance")
    return [run(x, init=i, validate_every="20") for x in (1.0, 0.1, 0.25, 0.5) for i in inits]


SETS = {
    "init": starts,
    "judged": judged,
    "methods": methods,
    "ablation": ablation,
    "candidates": candidates,
    "noise": noise,
    "slower-scales": slower_scales,
    "steps-saved": curves,
}
