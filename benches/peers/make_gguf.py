"""Writes a Llama model of random weights as GGUF, to measure speed with; its output has no meaning.

usage: make_gguf.py CONFIG.json TYPE OUT.gguf

CONFIG.json is in the Hugging Face form. The linear layers of the blocks are of TYPE, embedding and
output Q8_0, norms F32. Beside OUT.gguf goes OUT.gguf.json, which says how many bytes each of these
take. Tensors are made and written one at a time. Needs numpy and gguf.
"""

import itertools
import json
import os
import sys

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# Of every type: where a block's half-precision scales are, and values for them that give weights
# with a standard deviation of about 0.02, given codes of equal probability.
SCALES = {
    "Q1_0": {0: 0.02},
    "Q2_K": {80: 0.00144, 82: 0.00216},
    "Q4_0": {0: 0.0043},
    "Q8_0": {0: 0.00027},
    "IQ2_XXS": {0: 0.00043},
    "TQ1_0": {52: 0.024},
    "TQ2_0": {64: 0.0245},
}
# The bytes that hold four ternary digits, two bits each.
TERNARY = np.array(
    [a | b << 2 | c << 4 | d << 6 for a, b, c, d in itertools.product(range(3), repeat=4)],
    dtype=np.uint8,
)
# The fields of a configuration that have no default here.
REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)
# <unk>, <s> and </s>, and a token for every byte.
SPECIAL_TOKENS = 3 + 256


class Failure(Exception):
    """What is wrong with the command line or the configuration."""


def known_types():
    """The types of SCALES that the installed gguf package has, too."""
    return [name for name in SCALES if name in GGMLQuantizationType.__members__]


def load_config(path):
    """Reads a configuration, with the fields that may be absent filled in."""
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: {error}") from error
    if config.get("architectures") != ["LlamaForCausalLM"]:
        raise Failure(f"{path}: only LlamaForCausalLM is supported")
    if config.get("tie_word_embeddings"):
        raise Failure(f"{path}: a tied head is not supported")
    missing = [name for name in REQUIRED if name not in config]
    if missing:
        raise Failure(f"{path}: without {', '.join(missing)}")
    if config["vocab_size"] < SPECIAL_TOKENS:
        raise Failure(f"{path}: vocab_size must be at least {SPECIAL_TOKENS}")
    heads = config["num_attention_heads"]
    defaults = {
        "num_key_value_heads": heads,
        "head_dim": config["hidden_size"] // heads,
        "rope_theta": 10000.0,
    }
    return defaults | config


def tensors(config, kind):
    """Name, type (None for F32) and shape of every tensor, in the order of the file."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "token_embd.weight", "Q8_0", (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", None, (width,)
        yield block + "attn_q.weight", kind, (queries, width)
        yield block + "attn_k.weight", kind, (keys, width)
        yield block + "attn_v.weight", kind, (keys, width)
        yield block + "attn_output.weight", kind, (width, queries)
        yield block + "ffn_norm.weight", None, (width,)
        yield block + "ffn_gate.weight", kind, (inner, width)
        yield block + "ffn_up.weight", kind, (inner, width)
        yield block + "ffn_down.weight", kind, (width, inner)
    yield "output_norm.weight", None, (width,)
    yield "output.weight", "Q8_0", (config["vocab_size"], width)


def byte_shape(name, kind, shape):
    """The shape of a quantized tensor in bytes."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rows, columns = shape
    if columns % block:
        raise Failure(f"{name}: rows of {columns} are no multiple of {kind}'s block, {block}")
    return rows, columns // block * size


def random_blocks(rng, kind, shape):
    """Random codes under fixed scales, as bytes."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    count = shape[0] * shape[1]
    if kind == "TQ2_0":
        data = TERNARY[rng.integers(0, len(TERNARY), count, dtype=np.uint8)]
    else:
        data = rng.integers(0, 256, count, dtype=np.uint8)
    if kind == "Q8_0":
        codes = data.view(np.int8)
        np.maximum(codes, -127, out=codes)
    blocks = data.reshape(-1, size)
    for offset, scale in SCALES[kind].items():
        blocks[:, offset : offset + 2] = np.array([scale], dtype="<f2").view(np.uint8)
    return data.reshape(shape)


def add_tokens(writer, count):
    """A vocabulary in the form that every Llama file has."""
    rest = count - SPECIAL_TOKENS
    names = ["<unk>", "<s>", "</s>"]
    names += [f"<0x{byte:02X}>" for byte in range(256)]
    names += [f"t{index}" for index in range(rest)]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(
        [kinds.UNKNOWN] + [kinds.CONTROL] * 2 + [kinds.BYTE] * 256 + [kinds.NORMAL] * rest
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def add_shape(writer, config):
    """What the model looks like."""
    writer.add_name("random weights")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_infos(writer, plan):
    """Announces all tensors; returns how many bytes each part of the model takes."""
    sizes = {"embedding": 0, "linear": 0, "output": 0, "norms": 0}
    parts = {"token_embd.weight": "embedding", "output.weight": "output"}
    for name, kind, shape in plan:
        if kind is None:
            size, part = 4 * shape[0], "norms"
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size)
        else:
            raw = byte_shape(name, kind, shape)
            size, part = raw[0] * raw[1], parts.get(name, "linear")
            writer.add_tensor_info(name, raw, np.dtype(np.uint8), size, GGMLQuantizationType[kind])
        sizes[part] += size
    return sizes


def write(config, kind, path):
    """Writes the whole file; returns the sizes of its parts."""
    plan = list(tensors(config, kind))
    writer = gguf.GGUFWriter(path, "llama")
    add_shape(writer, config)
    add_tokens(writer, config["vocab_size"])
    sizes = add_infos(writer, plan)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for name, kind, shape in plan:
        if kind is None:
            writer.write_tensor_data(np.ones(shape, np.float32))
        else:
            writer.write_tensor_data(random_blocks(rng, kind, byte_shape(name, kind, shape)))
    writer.close()
    return sizes


def main(arguments):
    if len(arguments) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    config, kind, path = arguments
    types = known_types()
    if kind not in types:
        raise Failure(f"{kind}: unknown type; known are {', '.join(types)}")
    part = f"{path}.part"
    sizes = write(load_config(config), kind, part)
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        file.write(json.dumps({"type": kind, "bytes": sizes}) + "\n")
    os.replace(part, path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failure, OSError) as failure:
        sys.exit(f"make_gguf.py: {failure}")
