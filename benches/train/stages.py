"""The stages of `benches/train/books` that are no sets of runs."""

import json
import shutil
import statistics
from pathlib import Path

import results
from calls import Failure, call

ROOT = Path(__file__).resolve().parents[2]
SHAPES_7B = ROOT / "benches/configs/llama2-7b.json"


def speed(args, budget):
    """Speeds of rabitc and its peers in turns, and the ratio of the medians."""
    shape = ["--batch", args.batch, "--seq-len", args.seq_len, "--steps", args.speed_steps]
    peer = [args.python, ROOT / "benches/peers/train_torch.py", args.teacher / "config.json"]
    peer += shape + ["--device", args.devices[0], "--json"]
    own = [args.rabitc, "train", args.teacher, "--text", args.text, *shape]
    own += ["--device", args.devices[0], "--init", "greedy", "--no-diagnostics", "--save-every", 0]
    samples, reasons = {"rabitc": [], "eager": [], "compile": []}, {}
    for turn in range(args.rounds):
        names = list(samples)
        for name in names[turn % 3 :] + names[: turn % 3]:
            if name in reasons:
                continue
            try:
                samples[name].append(sample(args, budget, name, own, peer))
            except Failure as failure:
                reasons[name] = str(failure)
    medians = {name: statistics.median(s) for name, s in samples.items() if s}
    lines = ["| | tokens/s, median | range | rounds | rabitc / this |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, speeds in samples.items():
        if not speeds:
            lines.append(f"| {name} | {reasons.get(name, 'not run')} | | | |")
            continue
        ratio = medians["rabitc"] / medians[name] if "rabitc" in medians else None
        extent = f"{min(speeds):.0f} to {max(speeds):.0f}"
        cells = [f"{medians[name]:.0f}", extent, len(speeds), results.number(ratio, 3)]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    if args.cuda_bench is not None:
        lines += [""] + parts(args, budget, reasons)
    return lines, {"samples": samples, "failures": reasons}, not reasons


def parts(args, budget, reasons):
    """What a step consists of, as `cuda_bench` tells it."""
    log = args.out / "parts.log"
    log.unlink(missing_ok=True)
    command = [args.cuda_bench, "speed", args.teacher, args.seq_len, args.batch]
    try:
        out, _ = call(command, log, budget)
        return ["```text", *out.splitlines(), "```"]
    except Failure as failure:
        reasons["parts"] = str(failure)
        return [f"parts of a step: {failure}"]


def sample(args, budget, name, own, peer):
    """One steady speed."""
    log = args.out / f"speed-{name}.log"
    log.unlink(missing_ok=True)
    if name != "rabitc":
        out, _ = call([*peer, "--modes", name], log, budget)
        return json.loads(out.splitlines()[-1])["tokens_per_second"]
    work = args.work / "speed"
    shutil.rmtree(work, ignore_errors=True)
    call([*own, "-o", work], log, budget)
    steps = results.records(work / "metrics.jsonl")["step"]
    shutil.rmtree(work)
    return results.steady([step["tokens_per_second"] for step in steps])


def fit7b(args, budget):
    """The plan of a large step, and one that is done."""
    log = args.out / "fit7b.log"
    log.unlink(missing_ok=True)
    plan = [args.rabitc, "train", SHAPES_7B, "--dry-run", "--weights", "bf16", "--batch", 1]
    plan += ["--seq-len", args.fit_seq_len, "--checkpoint-activations", "--device", args.devices[0]]
    lines, value = [], {}
    try:
        out, _ = call(plan, log, budget)
        lines += out.splitlines() + [""]
        if args.cuda_bench is None:
            raise Failure("fit7b needs --cuda-bench")
        folder = args.work / "fit7b"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(SHAPES_7B, folder / "config.json")
        out, _ = call([args.cuda_bench, "fit", folder, args.fit_seq_len], log, budget)
        told = out.splitlines()
        lines += [f"- {line}" for line in told]
        planned, peak = told[-1].removeprefix("plan ").split(":")[0].split(", peak ")
        value = {"plan": int(planned), "peak": int(peak), "off": int(peak) / int(planned) - 1}
        within = abs(value["off"]) <= 0.1
        lines.append(f"- the peak is {value['off']:+.2%} from the plan{'' if within else ' FAILED'}")
        return lines, value, within
    except Failure as failure:
        return lines + [f"fit7b: {failure}"], value | {"failure": str(failure)}, False


STAGES = {"speed": speed, "fit7b": fit7b}
