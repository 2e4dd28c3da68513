#!/usr/bin/env python3
"""Tokens per second of a Llama-shaped fp16 model in PyTorch, compiled, in CUDA graphs.

usage: gpu_fp16.py CONFIG.json [POSITIONS ...] [--prompt TOKENS ...] [--serve]

CONFIG.json is a Hugging Face configuration; weights are random, the batch is 1. A run has up to three
kinds of measurements:

  decode N    a decode step with N positions in the cache: embedding, every block with its cache, final
              norm, head, argmax, which is what a generation repeats
  prompt N    reading N tokens into an empty cache, with the head for the last one
  products N  of such a prompt the products of the linear layers alone, which is what cuBLAS makes of
              these shapes

Blocks are compiled once a shape, those of a decode step with `max-autotune`; the products of prompts
are left to cuBLAS, which is what that finds to be the fastest. A block takes what the block before
it adds to the residual stream, so that the addition is compiled together with the norm after it, as it
is where a whole model is compiled at once.

With --serve, everything is compiled first and a line of JSON is printed. Then every line of standard
input names a measurement, such as `decode 512`, and is answered by a line of JSON. So measurements can
take turns with those of another program.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

# Runs in one measurement of a kind.
REPEATS = {"decode": 60, "prompt": 4, "products": 4}


class Llama:
    """Weights and the parts of a step."""

    def __init__(self, config, room):
        make = lambda *shape: torch.randn(*shape) * 0.02
        d, ff, self.heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        self.kv_heads, self.dim = config.get("num_key_value_heads", self.heads), d // self.heads
        self.eps, self.kv = config.get("rms_norm_eps", 1e-5), self.kv_heads * self.dim
        self.embed, self.head, self.norm = make(config["vocab_size"], d), make(config["vocab_size"], d), make(d)
        # norm1, q/k/v, o, norm2, gate/up, down
        shapes = (d,), (d + 2 * self.kv, d), (d, d), (d,), (2 * ff, d), (d, ff)
        self.layers = [tuple(make(*s) for s in shapes) for _ in range(config["num_hidden_layers"])]
        angles = torch.arange(room)[:, None] * 10000.0 ** (-torch.arange(0, self.dim, 2) / self.dim)
        self.cos, self.sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def caches(self, room):
        """Keys and values of every layer."""
        shape = 1, self.kv_heads, room, self.dim
        return [(torch.randn(*shape), torch.randn(*shape)) for _ in self.layers]

    def rotated(self, x, positions):
        """Rotary embedding, half-rotation form."""
        a, b = x.chunk(2, -1)
        return x * self.cos[positions] + torch.cat((-b, a), -1) * self.sin[positions]

    def projections(self, x, weights):
        """q, k and v, heads first."""
        count = x.shape[0]
        n = F.rms_norm(x, x.shape[-1:], weights[0], self.eps)
        parts = F.linear(n, weights[1]).split([x.shape[-1], self.kv, self.kv], -1)
        return [y.reshape(1, count, -1, self.dim).transpose(1, 2) for y in parts]

    def rest(self, x, attended, weights):
        """The block after attention: the stream, and what is to be added to it."""
        x = x + F.linear(attended.transpose(1, 2).reshape(x.shape), weights[2])
        n = F.rms_norm(x, x.shape[-1:], weights[3], self.eps)
        gate, up = F.linear(n, weights[4]).chunk(2, -1)
        return x, F.linear(F.silu(gate) * up, weights[5])

    def decode_block(self, x, add, weights, cache, position):
        """A block for the token at `position`, over a cache of fixed size."""
        x, (keys, values) = x + add, cache
        q, k, v = self.projections(x, weights)
        keys[:, :, position], values[:, :, position] = self.rotated(k, position), v
        seen = (torch.arange(keys.shape[2], device=x.device) <= position)[None, None, None]
        gqa = self.heads != self.kv_heads
        attended = F.scaled_dot_product_attention(
            self.rotated(q, position), keys, values, attn_mask=seen, enable_gqa=gqa
        )
        return self.rest(x, attended, weights)

    def prompt_block(self, x, add, weights, cache, positions):
        """A block for tokens that fill the cache from its beginning."""
        x, (keys, values) = x + add, cache
        q, k, v = self.projections(x, weights)
        k = self.rotated(k, positions)
        keys[:, :, : x.shape[0]], values[:, :, : x.shape[0]] = k, v
        gqa = self.heads != self.kv_heads
        attended = F.scaled_dot_product_attention(
            self.rotated(q, positions), k, v, is_causal=True, enable_gqa=gqa
        )
        return self.rest(x, attended, weights)

    def choice(self, x, add):
        """The most probable token after the last one."""
        x = F.rms_norm(x[-1:] + add[-1:], x.shape[-1:], self.norm, self.eps)
        return F.linear(x, self.head).argmax(-1)

    def step(self, block, choice, tokens, positions, caches):
        """A whole step of compiled parts."""
        x = self.embed[tokens]
        add = torch.zeros_like(x)
        for weights, cache in zip(self.layers, caches):
            x, add = block(x, add, weights, cache, positions)
        return choice(x, add)


def compiled(function, mode="default"):
    """A function compiled for each shape that it meets."""
    return torch.compile(function, mode=mode, fullgraph=True, dynamic=False)


class Recorded:
    """A CUDA graph of `run`, to be replayed. It keeps what `run` refers to, whose memory it uses."""

    def __init__(self, run):
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        self.run, self.graph = run, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            run()

    def __call__(self):
        self.graph.replay()


def decode(model, positions):
    """A decode step with `positions` positions in the cache."""
    mode = "max-autotune-no-cudagraphs"
    block, choice = compiled(model.decode_block, mode), compiled(model.choice, mode)
    caches = model.caches(positions + 8)
    token, position = torch.tensor([1]), torch.tensor([positions])
    return Recorded(lambda: token.copy_(model.step(block, choice, token, position, caches)))


def prompt(model, count):
    """Reading `count` tokens."""
    caches, block, choice = model.caches(count), compiled(model.prompt_block), compiled(model.choice)
    tokens, positions = torch.arange(count) % model.embed.shape[0], torch.arange(count)
    return Recorded(lambda: model.step(block, choice, tokens, positions, caches))


def products(model, count):
    """The products of the linear layers for `count` tokens."""
    inputs = {w.shape[1]: torch.randn(count, w.shape[1]) for w in model.layers[0] if w.dim() == 2}

    def run():
        for layer in model.layers:
            for weight in layer:
                if weight.dim() == 2:
                    F.linear(inputs[weight.shape[1]], weight)

    return Recorded(run)


@torch.inference_mode()
def prepare(config, args):
    """What can be measured, by name."""
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.float16)
    model = Llama(config, max(args.positions + args.prompt) + 8)
    runs, start = {}, time.monotonic()
    plan = [(decode, n) for n in args.positions]
    plan += [(kind, n) for kind in (products, prompt) for n in args.prompt]
    for kind, count in plan:
        name = f"{kind.__name__} {count}"
        runs[name] = kind(model, count)
        print(f"{name}: ready after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return runs


@torch.inference_mode()
def measure(name, run):
    """Tokens per second over some runs in a row."""
    kind, tokens = name.split()
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS[kind]):
        run()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / REPEATS[kind]
    return (1 if kind == "decode" else int(tokens)) / seconds


def serve(runs, facts):
    """Answers what standard input asks for."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in runs:
            print(json.dumps({"error": f"{name}: not one of {', '.join(runs)}"}), flush=True)
            continue
        print(json.dumps({"test": name, "tokens_per_second": measure(name, runs[name])}), flush=True)


def main():
    """Serves measurements, or prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("positions", nargs="*", type=int)
    parser.add_argument("--prompt", nargs="+", type=int, metavar="TOKENS", default=[])
    parser.add_argument("--serve", action="store_true", help="measure what standard input asks for")
    args = parser.parse_args()
    if not args.positions + args.prompt:
        args.positions = [128, 512]
    with open(args.config, encoding="utf-8") as file:
        config = json.load(file)
    start = time.monotonic()
    runs = prepare(config, args)
    facts = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    facts["seconds_to_compile"] = time.monotonic() - start
    if args.serve:
        return serve(runs, facts)
    print(f"PyTorch {facts['torch']}, {facts['device']}\n\n| | tokens/s |\n|---|---:|")
    for name, run in runs.items():
        speed = statistics.median(measure(name, run) for _ in range(5))
        print(f"| {name} | {speed:.0f} |", flush=True)


main()
