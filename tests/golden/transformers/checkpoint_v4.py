"""A random DeepSeek-V4 checkpoint under the names of the published ones. Owns names, shapes, values, FP8 and FP4 with
power-of-two scales; writing files is checkpoint.py's. Called by record_v4.py."""

import zlib

import numpy
import torch

from checkpoint import DTYPES, FP8_BLOCK, FP8_MAX, blocks_of

FP4_GROUP = 32
FP4_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def ffn_shapes(prefix, hidden, width):
    return {f"{prefix}.w1.weight": (width, hidden), f"{prefix}.w2.weight": (hidden, width),
            f"{prefix}.w3.weight": (width, hidden)}


def compressor_shapes(prefix, c, ratio, dim):
    columns = 2 * dim if ratio == 4 else dim
    return {f"{prefix}.wkv.weight": (columns, c["hidden_size"]), f"{prefix}.wgate.weight": (columns, c["hidden_size"]),
            f"{prefix}.ape": (ratio, columns), f"{prefix}.norm.weight": (dim,)}


def layer_shapes(prefix, c, layer):
    hidden, streams, heads, dim = c["hidden_size"], c["hc_mult"], c["num_attention_heads"], c["head_dim"]
    ratio, shapes = c["compress_ratios"][layer], {}
    for site in ("hc_attn", "hc_ffn"):
        shapes |= {f"{prefix}.{site}_fn": (streams * (streams + 2), streams * hidden),
                   f"{prefix}.{site}_base": (streams * (streams + 2),), f"{prefix}.{site}_scale": (3,)}
    shapes |= {
        f"{prefix}.attn_norm.weight": (hidden,),
        f"{prefix}.ffn_norm.weight": (hidden,),
        f"{prefix}.attn.wq_a.weight": (c["q_lora_rank"], hidden),
        f"{prefix}.attn.q_norm.weight": (c["q_lora_rank"],),
        f"{prefix}.attn.wq_b.weight": (heads * dim, c["q_lora_rank"]),
        f"{prefix}.attn.wkv.weight": (dim, hidden),
        f"{prefix}.attn.kv_norm.weight": (dim,),
        f"{prefix}.attn.attn_sink": (heads,),
        f"{prefix}.attn.wo_a.weight": (c["o_groups"] * c["o_lora_rank"], heads * dim // c["o_groups"]),
        f"{prefix}.attn.wo_b.weight": (hidden, c["o_groups"] * c["o_lora_rank"]),
        f"{prefix}.ffn.gate.weight": (c["n_routed_experts"], hidden),
    }
    if ratio:
        shapes |= compressor_shapes(f"{prefix}.attn.compressor", c, ratio, dim)
    if ratio == 4:
        indexer = f"{prefix}.attn.indexer"
        shapes |= {f"{indexer}.wq_b.weight": (c["index_n_heads"] * c["index_head_dim"], c["q_lora_rank"]),
                   f"{indexer}.weights_proj.weight": (c["index_n_heads"], hidden)}
        shapes |= compressor_shapes(f"{indexer}.compressor", c, ratio, c["index_head_dim"])
    if layer < c["num_hash_layers"]:
        shapes[f"{prefix}.ffn.gate.tid2eid"] = (c["vocab_size"], c["num_experts_per_tok"])
    else:
        shapes[f"{prefix}.ffn.gate.bias"] = (c["n_routed_experts"],)
    for expert in range(c["n_routed_experts"]):
        shapes |= ffn_shapes(f"{prefix}.ffn.experts.{expert}", hidden, c["moe_intermediate_size"])
    return shapes | ffn_shapes(f"{prefix}.ffn.shared_experts", hidden,
                               c["moe_intermediate_size"] * c["n_shared_experts"])


def tensor_shapes(c):
    hidden, streams = c["hidden_size"], c["hc_mult"]
    shapes = {"embed.weight": (c["vocab_size"], hidden), "norm.weight": (hidden,),
              "head.weight": (c["vocab_size"], hidden), "hc_head_fn": (streams, streams * hidden),
              "hc_head_base": (streams,), "hc_head_scale": (1,)}
    for layer in range(c["num_hidden_layers"]):
        shapes |= layer_shapes(f"layers.{layer}", c, layer)
    return shapes


def gain_of(name):
    """Standard deviation of a matrix's output for inputs of variance 1: peaked attention and gates, spread-out router."""
    if ".ffn.gate." in name or name == "head.weight" or "_fn" in name:
        return 2.0
    if "wq_b" in name or "wgate" in name:
        return 1.5
    return 1.2


def random_tensor(name, shape, case):
    """F32 values, not yet rounded to the type on disk; expert ids as int64."""
    rng = numpy.random.default_rng([case.seed, zlib.crc32(name.encode())])
    if name.endswith("tid2eid"):
        rows = [rng.permutation(case.config["n_routed_experts"])[: shape[1]] for _ in range(shape[0])]
        return torch.tensor(numpy.array(rows), dtype=torch.int64)
    draw = rng.standard_normal(shape)
    if name.endswith("gate.bias"):
        values = case.bias_mean + case.bias_std * draw
    elif name.endswith(("_base", ".ape", "attn_sink")):
        values = 0.7 * draw
    elif name.endswith("_scale"):
        values = 1.0 + 0.3 * draw
    elif len(shape) == 1:
        values = 1.0 + 0.2 * draw  # norms
    elif name == "embed.weight":
        values = case.embed_std * draw
    else:
        values = draw * (gain_of(name) / shape[1] ** 0.5)
    return torch.from_numpy(values).to(torch.float32)


def stays_f32(name):
    return name.endswith(("_fn", "_base", "_scale", ".ape", "attn_sink", "gate.bias"))


def is_fp8_matrix(name):
    return name.endswith(("wq_a.weight", "wq_b.weight", "attn.wkv.weight", "wo_a.weight", "wo_b.weight")) or (
        ".shared_experts." in name)


def power_scale(largest, limit):
    """The smallest power of two that brings `largest` below `limit`, as an E8M0 exponent."""
    return max(0, int(numpy.ceil(numpy.log2(max(float(largest), 1e-30) / limit))) + 127)


def quantise_fp8(values):
    """-> (e4m3, E8M0 scales, what both mean)."""
    grid = [-(-n // FP8_BLOCK) for n in values.shape]
    scales = torch.empty(grid, dtype=torch.uint8)
    quantised, meant = torch.empty(values.shape, dtype=torch.float8_e4m3fn), torch.empty(values.shape)
    for row, col, rows, cols in blocks_of(values.shape):
        scales[row, col] = power_scale(values[rows, cols].abs().max(), FP8_MAX)
        factor = 2.0 ** (int(scales[row, col]) - 127)
        quantised[rows, cols] = (values[rows, cols] / factor).to(torch.float8_e4m3fn)
        meant[rows, cols] = quantised[rows, cols].to(torch.float32) * factor
    return quantised, scales.view(torch.float8_e8m0fnu), meant


def quantise_fp4(values):
    """-> (two codes a byte, the lower column in the low nibble; E8M0 scales of 32 columns; what both mean)."""
    rows, cols = values.shape
    groups = values.view(rows, cols // FP4_GROUP, FP4_GROUP)
    exponents = torch.tensor([[power_scale(g.abs().max(), 6.0) for g in row] for row in groups], dtype=torch.uint8)
    factors = (2.0 ** (exponents.to(torch.float32) - 127))[:, :, None]
    codes = ((groups / factors).abs()[..., None] - FP4_VALUES).abs().argmin(-1)
    codes = codes + 8 * (groups < 0).to(codes.dtype)
    meant = torch.where(codes >= 8, -1.0, 1.0) * FP4_VALUES[codes % 8] * factors
    codes = codes.view(rows, cols)
    packed = (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8).view(torch.int8)
    return packed, exponents.view(torch.float8_e8m0fnu), meant.view(rows, cols)


def build(case):
    """-> (tensors as they lie on disk, the same widened to F32, both under the names on disk)."""
    on_disk, widened, c = {}, {}, case.config
    for name, shape in tensor_shapes(c).items():
        values, scale_name = random_tensor(name, shape, case), name.removesuffix("weight") + "scale"
        if case.dtype == "F8_E4M3" and ".ffn.experts." in name and c.get("expert_dtype") == "fp4":
            on_disk[name], on_disk[scale_name], widened[name] = quantise_fp4(values)
        elif case.dtype == "F8_E4M3" and is_fp8_matrix(name):
            on_disk[name], on_disk[scale_name], widened[name] = quantise_fp8(values)
        elif values.dtype == torch.int64 or stays_f32(name):
            on_disk[name] = widened[name] = values
        else:
            on_disk[name] = values.to(DTYPES[case.dtype])
            widened[name] = on_disk[name].to(torch.float32)
    return on_disk, widened
