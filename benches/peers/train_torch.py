#!/usr/bin/env python3
"""Training speed in PyTorch: tokens a second of the same run as `rabitc train`.

usage: train_torch.py CONFIG.json [--batch 48] [--seq-len 512] [--paths 2] [--steps 30]
                      [--modes eager,compile] [--json]

CONFIG.json is a Hugging Face configuration of the Llama family; weights are random. A step is what
`rabitc train` repeats: the teacher's forward pass in bf16, the student's forward and backward pass
under bf16 autocast with residual-binary layers whose cores are derived from one shared f32 weight,
KL on the logits, the hidden states' error after each block, clipping, AdamW on f32 weights. Times
are of whole steps between two synchronisations, after a quarter of the steps as a warm-up.
"""

import argparse
import json
import statistics
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config.json of the Llama family")
    parser.add_argument("--batch", type=int, default=48, help="sequences of a batch")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--paths", type=int, default=2, help="binary paths of a layer")
    parser.add_argument("--steps", type=int, default=30, help="steps of each mode")
    parser.add_argument("--modes", default="eager,compile", help="what is measured")
    parser.add_argument("--device", help="[default: cuda if there is one]")
    parser.add_argument("--json", action="store_true", help="print one JSON object a mode")
    return parser.parse_args()


# Before PyTorch is looked for: --help needs none.
ARGUMENTS = arguments() if __name__ == "__main__" else None

import torch
import torch.nn.functional as F


class Binary(torch.nn.Module):
    """A linear layer of residual-binary paths that share one weight."""

    def __init__(self, weight, paths):
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone().float())
        rest, g, h = self.weight.detach().clone(), [], []
        for _ in range(paths):
            size = rest.abs()
            rows, columns = size.mean(1), size.mean(0) / size.mean()
            g.append(rows)
            h.append(columns)
            rest = rest - torch.where(rest >= 0, 1.0, -1.0) * rows[:, None] * columns
        self.g, self.h = torch.nn.Parameter(torch.stack(g)), torch.nn.Parameter(torch.stack(h))

    def effective(self):
        """The weight that is multiplied by; its gradient passes to the shared weight as it is."""
        g, h = (s + (s.half().float() - s).detach() for s in (self.g, self.h))
        rest, total = self.weight.detach(), 0.0
        for g_i, h_i in zip(g, h):
            core = torch.where(rest >= 0, 1.0, -1.0)
            path = g_i[:, None] * core * h_i
            rest = rest - path.detach()
            total = total + path
        return total + (self.weight - self.weight.detach())

    def forward(self, x):
        return F.linear(x, self.effective())


class Dense(torch.nn.Module):
    """A linear layer without bias."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone())

    def forward(self, x):
        return F.linear(x, self.weight)


class Llama(torch.nn.Module):
    """A Llama whose forward pass gives logits and the hidden states after each block."""

    def __init__(self, config, weights, linear):
        super().__init__()
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads") or self.heads
        self.dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.eps = config.get("rms_norm_eps", 1e-5)
        own = lambda name: torch.nn.Parameter(weights[name].clone())
        self.embed, self.norm = own("embed"), own("norm")
        self.head = None if config.get("tie_word_embeddings") else own("head")
        self.blocks = torch.nn.ModuleList()
        for n in range(config["num_hidden_layers"]):
            block = torch.nn.Module()
            for name in ("q", "k", "v", "o", "gate", "up", "down"):
                setattr(block, name, linear(weights[f"{n}.{name}"]))
            block.norm1, block.norm2 = own(f"{n}.norm1"), own(f"{n}.norm2")
            self.blocks.append(block)
        rope = config.get("rope_parameters") or config
        theta = rope.get("rope_theta", 10000.0)
        frequency = theta ** (-torch.arange(0, self.dim, 2, device=self.embed.device) / self.dim)
        self.register_buffer("frequency", frequency)

    def rotated(self, x, cos, sin):
        """Rotary embedding, half-rotation form."""
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, ids):
        batch, length = ids.shape
        angles = torch.arange(length, device=ids.device)[:, None] * self.frequency
        cos, sin = angles.cos(), angles.sin()
        x, hidden = F.embedding(ids, self.embed), []
        split = lambda y, heads: y.view(batch, length, heads, self.dim).transpose(1, 2)
        for block in self.blocks:
            n = F.rms_norm(x, x.shape[-1:], block.norm1, self.eps)
            q = self.rotated(split(block.q(n), self.heads), cos, sin)
            k = self.rotated(split(block.k(n), self.kv_heads), cos, sin)
            v = split(block.v(n), self.kv_heads)
            q, k = q.to(v.dtype), k.to(v.dtype)
            a = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
            )
            x = x + block.o(a.transpose(1, 2).reshape(batch, length, -1))
            n = F.rms_norm(x, x.shape[-1:], block.norm2, self.eps)
            x = x + block.down(F.silu(block.gate(n)) * block.up(n))
            hidden.append(x)
        x = F.rms_norm(x, x.shape[-1:], self.norm, self.eps)
        return F.linear(x, self.embed if self.head is None else self.head), hidden


def random_weights(config, device):
    """Weights of a Llama of the configuration's shape."""
    d, ff = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or d // heads
    kv = (config.get("num_key_value_heads") or heads) * dim
    make = lambda *shape: torch.randn(*shape, device=device) * 0.02
    vocab = config["vocab_size"]
    weights = {"embed": make(vocab, d), "head": make(vocab, d), "norm": torch.ones(d, device=device)}
    for n in range(config["num_hidden_layers"]):
        shapes = {"q": (heads * dim, d), "k": (kv, d), "v": (kv, d), "o": (d, heads * dim)}
        shapes |= {"gate": (ff, d), "up": (ff, d), "down": (d, ff)}
        weights |= {f"{n}.{name}": make(*shape) for name, shape in shapes.items()}
        weights |= {f"{n}.{name}": torch.ones(d, device=device) for name in ("norm1", "norm2")}
    return weights


def losses(student, teacher, ids):
    """KL on the logits plus 0.1 times the hidden states' relative error."""
    with torch.no_grad():
        target, target_hidden = teacher(ids)
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits, hidden = student(ids)
    log_q = F.log_softmax(logits.float().flatten(0, 1), -1)
    log_p = F.log_softmax(target.float().flatten(0, 1), -1)
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    error = 0.0
    for x, t in zip(hidden, target_hidden):
        t = t.float()
        error = error + ((x.float() - t).square().sum(-1) / t.square().sum(-1)).mean()
    return kl + 0.1 * error / len(hidden)


def measure(config, args, mode):
    """Tokens a second, step by step, and the most memory that was allocated."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(0)
    weights = random_weights(config, device)
    teacher = Llama(config, weights, Dense).bfloat16().eval()
    student = Llama(config, weights, lambda w: Binary(w, args.paths))
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda"
    )
    loss_of = torch.compile(losses) if mode == "compile" else losses
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        wait = torch.cuda.synchronize
    else:
        wait = lambda: None
    speeds = []
    for _ in range(args.steps):
        ids = torch.randint(config["vocab_size"], (args.batch, args.seq_len), device=device)
        wait()
        start = time.perf_counter()
        loss_of(student, teacher, ids).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        speeds.append(ids.numel() / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return speeds[len(speeds) // 4 :], peak


def main(args):
    with open(args.config) as file:
        config = json.load(file)
    # What `rabitc` and the optimizer's f32 products outside autocast are compared with.
    torch.set_float32_matmul_precision("high")
    for mode in args.modes.split(","):
        speeds, peak = measure(config, args, mode)
        median = statistics.median(speeds)
        if args.json:
            row = {"mode": mode, "tokens_per_second": median, "peak_bytes": peak}
            print(json.dumps(row | {"torch": torch.__version__, "samples": speeds}), flush=True)
        else:
            low, high = min(speeds), max(speeds)
            memory = "" if peak is None else f", {peak / 1e9:.2f} GB at most"
            print(f"{mode}: {median:.0f} tokens/s ({low:.0f} to {high:.0f}){memory}", flush=True)


if __name__ == "__main__":
    main(ARGUMENTS)
