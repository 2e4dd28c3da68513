#!/usr/bin/env python3
"""Tokens per second of a Llama-shaped fp16 decode step in PyTorch, compiled, in a CUDA graph.

usage: gpu_fp16.py CONFIG.json [POSITIONS ...]

CONFIG.json is a Hugging Face configuration; weights are random, the batch is 1, and POSITIONS (128
and 512 by default) are how many positions are in the cache. The step is what a generation repeats:
embedding, every block with its cache, final norm, head, argmax.
"""

import json
import sys
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
    rates = []
    for _ in range(7):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(30):
            graph.replay()
        torch.cuda.synchronize()
        rates.append(30 / (time.perf_counter() - start))
    return sorted(rates)[3]


def main():
    """Prints a Markdown table."""
    with open(sys.argv[1]) as file:
        config = json.load(file)
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}\n\n| cached positions | tokens/s |\n|---:|---:|")
    for positions in [int(n) for n in sys.argv[2:]] or [128, 512]:
        print(f"| {positions} | {measure(config, positions):.0f} |", flush=True)


main()
