#!/usr/bin/env python3
"""Tokens per second of a Llama-shaped fp16 model in PyTorch, compiled, in a CUDA graph.

usage: gpu_fp16.py CONFIG.json [POSITIONS ...] [--prompt TOKENS ...]

CONFIG.json is a Hugging Face configuration; weights are random, the batch is 1.

Without --prompt: a decode step with POSITIONS (128 and 512 by default) positions in the cache. The
step is what a generation repeats: embedding, every block with its cache, final norm, head, argmax.

With --prompt: reading TOKENS tokens into an empty cache, with the head for the last one, and beside it
the products of the linear layers alone, which is what cuBLAS makes of these shapes.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F


class Step(torch.nn.Module):
    """One decode step with a cache of fixed size."""

    def __init__(self, config, room):
        super().__init__()
        make = lambda *shape: torch.nn.Parameter(torch.randn(*shape) * 0.02, requires_grad=False)
        d, ff, self.heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        self.kv_heads, self.dim = config.get("num_key_value_heads", self.heads), d // self.heads
        self.eps, kv = config.get("rms_norm_eps", 1e-5), self.kv_heads * self.dim
        self.embed, self.head = make(config["vocab_size"], d), make(config["vocab_size"], d)
        self.norm = make(d)
        self.layers = torch.nn.ModuleList()
        for _ in range(config["num_hidden_layers"]):
            layer = torch.nn.Module()
            layer.qkv, layer.o = make(d + 2 * kv, d), make(d, d)
            layer.gate_up, layer.down = make(2 * ff, d), make(d, ff)
            layer.norm1, layer.norm2 = make(d), make(d)
            layer.register_buffer("k", torch.randn(1, self.kv_heads, room, self.dim))
            layer.register_buffer("v", torch.randn(1, self.kv_heads, room, self.dim))
            self.layers.append(layer)
        angles = torch.arange(room)[:, None] * 10000.0 ** (-torch.arange(0, self.dim, 2) / self.dim)
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def rotate(self, x, position):
        """Rotary embedding, half-rotation form."""
        a, b = x.chunk(2, -1)
        return x * self.cos[position] + torch.cat((-b, a), -1) * self.sin[position]

    def forward(self, token, position):
        """The next token."""
        x = self.embed[token]
        seen = (torch.arange(self.cos.shape[0], device=x.device) <= position)[None, None, None]
        for layer in self.layers:
            n = F.rms_norm(x, x.shape[-1:], layer.norm1, self.eps)
            kv = self.kv_heads * self.dim
            q, k, v = F.linear(n, layer.qkv).split([x.shape[-1], kv, kv], -1)
            q = self.rotate(q.view(1, self.heads, 1, self.dim), position)
            layer.k[:, :, position] = self.rotate(k.view(1, self.kv_heads, 1, self.dim), position)
            layer.v[:, :, position] = v.view(1, self.kv_heads, 1, self.dim)
            a = F.scaled_dot_product_attention(q, layer.k, layer.v, attn_mask=seen, enable_gqa=self.heads != self.kv_heads)
            x = x + F.linear(a.reshape(1, -1), layer.o)
            n = F.rms_norm(x, x.shape[-1:], layer.norm2, self.eps)
            gate, up = F.linear(n, layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        x = F.rms_norm(x, x.shape[-1:], self.norm, self.eps)
        return F.linear(x, self.head).argmax(-1)


    def read(self, tokens):
        """The token after a prompt that fills the cache from its beginning."""
        count = tokens.shape[0]
        x, positions = self.embed[tokens], torch.arange(count, device=tokens.device)
        for layer in self.layers:
            n = F.rms_norm(x, x.shape[-1:], layer.norm1, self.eps)
            kv = self.kv_heads * self.dim
            q, k, v = F.linear(n, layer.qkv).split([x.shape[-1], kv, kv], -1)
            heads = lambda x, n: x.view(1, count, n, self.dim).transpose(1, 2)
            q, k = (self.rotate(heads(*h), positions) for h in ((q, self.heads), (k, self.kv_heads)))
            v = heads(v, self.kv_heads)
            layer.k[:, :, :count], layer.v[:, :, :count] = k, v
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
            x = x + F.linear(a.transpose(1, 2).reshape(count, -1), layer.o)
            n = F.rms_norm(x, x.shape[-1:], layer.norm2, self.eps)
            gate, up = F.linear(n, layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        x = F.rms_norm(x[-1:], x.shape[-1:], self.norm, self.eps)
        return F.linear(x, self.head).argmax(-1)


def median_seconds(run, repeats):
    """Seconds of one run, the median of seven measurements."""
    seconds = []
    for _ in range(7):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / repeats)
    return sorted(seconds)[3]


@torch.inference_mode()
def measure(config, positions):
    """Tokens per second with `positions` positions in the cache."""
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.float16)
    step = Step(config, positions + 8)
    compiled = torch.compile(step, mode="max-autotune-no-cudagraphs", fullgraph=True)
    token, position = torch.tensor([1]), torch.tensor([positions])
    for _ in range(3):
        compiled(token, position)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token.copy_(compiled(token, position))
    return 1 / median_seconds(graph.replay, 30)


@torch.inference_mode()
def measure_prompt(config, count):
    """Seconds to read `count` tokens, and seconds of the products alone."""
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.float16)
    step = Step(config, count)
    compiled = torch.compile(step.read, fullgraph=True)
    tokens = torch.arange(count) % config["vocab_size"]
    for _ in range(3):
        compiled(tokens)
    inputs = {n: torch.randn(count, n) for n in (config["hidden_size"], config["intermediate_size"])}

    def products():
        for layer in step.layers:
            for weight in (layer.qkv, layer.o, layer.gate_up, layer.down):
                F.linear(inputs[weight.shape[1]], weight)

    products()
    return median_seconds(lambda: compiled(tokens), 3), median_seconds(products, 3)


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("positions", nargs="*", type=int, default=[128, 512])
    parser.add_argument("--prompt", nargs="+", type=int, metavar="TOKENS")
    args = parser.parse_args()
    with open(args.config) as file:
        config = json.load(file)
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    if args.prompt:
        print("| prompt | tokens/s | products alone, tokens/s |\n|---:|---:|---:|")
        for count in args.prompt:
            whole, products = measure_prompt(config, count)
            print(f"| {count} | {count / whole:.0f} | {count / products:.0f} |", flush=True)
        return
    print("| cached positions | tokens/s |\n|---:|---:|")
    for positions in args.positions:
        print(f"| {positions} | {measure(config, positions):.0f} |", flush=True)


main()
