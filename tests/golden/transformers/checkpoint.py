"""A random checkpoint in the layout that Hugging Face checkpoints have on disk: one tensor per expert.

Owns the tensor names and shapes, the random values, block-wise FP8 and sharding. Knows no mathematics of the model.
Called by record.py. A tensor's values depend on (case seed, tensor name) alone.
"""

import json
import zlib

import numpy
import torch
from safetensors.torch import save_file

FP8_BLOCK = 128
FP8_MAX = 448.0  # largest finite e4m3
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F8_E4M3": torch.bfloat16}


def mlp_shapes(prefix, hidden, width):
    return {
        f"{prefix}.gate_proj.weight": (width, hidden),
        f"{prefix}.up_proj.weight": (width, hidden),
        f"{prefix}.down_proj.weight": (hidden, width),
    }


def indexer_shapes(prefix, c):
    heads, dim = c["index_n_heads"], c["index_head_dim"]
    return {
        f"{prefix}.wq_b.weight": (heads * dim, c["q_lora_rank"]),
        f"{prefix}.wk.weight": (dim, c["hidden_size"]),
        f"{prefix}.k_norm.weight": (dim,),
        f"{prefix}.k_norm.bias": (dim,),
        f"{prefix}.weights_proj.weight": (heads, c["hidden_size"]),
    }


def grouped_attention_shapes(prefix, c):
    heads, kv_heads, dim, hidden = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["hidden_size"]
    return {
        f"{prefix}.q_proj.weight": (heads * dim, hidden),
        f"{prefix}.k_proj.weight": (kv_heads * dim, hidden),
        f"{prefix}.v_proj.weight": (kv_heads * dim, hidden),
        f"{prefix}.o_proj.weight": (hidden, heads * dim),
        f"{prefix}.q_norm.weight": (dim,),
        f"{prefix}.k_norm.weight": (dim,),
    }


def is_dense(layer, c):
    if c["model_type"] == "qwen3_moe":
        return layer in c["mlp_only_layers"] or (layer + 1) % c["decoder_sparse_step"] != 0
    return layer < c["first_k_dense_replace"]


def attention_shapes(prefix, c):
    if c["model_type"] == "qwen3_moe":
        return grouped_attention_shapes(prefix, c)
    heads, hidden, query_rank = c["num_attention_heads"], c["hidden_size"], c["q_lora_rank"]
    query_rows = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    shapes = {
        f"{prefix}.kv_a_proj_with_mqa.weight": (c["kv_lora_rank"] + c["qk_rope_head_dim"], hidden),
        f"{prefix}.kv_a_layernorm.weight": (c["kv_lora_rank"],),
        f"{prefix}.kv_b_proj.weight": (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"]),
        f"{prefix}.o_proj.weight": (hidden, heads * c["v_head_dim"]),
    }
    if "index_topk" in c:
        shapes |= indexer_shapes(f"{prefix}.indexer", c)
    if query_rank is None:
        return shapes | {f"{prefix}.q_proj.weight": (query_rows, hidden)}
    return shapes | {
        f"{prefix}.q_a_proj.weight": (query_rank, hidden),
        f"{prefix}.q_a_layernorm.weight": (query_rank,),
        f"{prefix}.q_b_proj.weight": (query_rows, query_rank),
    }


def tensor_shapes(c):
    """Name -> shape of every tensor a checkpoint with config `c` has, before FP8 adds its scales."""
    hidden, moe_width = c["hidden_size"], c["moe_intermediate_size"]
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes |= attention_shapes(f"{prefix}.self_attn", c)
        if is_dense(layer, c):
            shapes |= mlp_shapes(f"{prefix}.mlp", hidden, c["intermediate_size"])
            continue
        num_experts = c["num_experts" if c["model_type"] == "qwen3_moe" else "n_routed_experts"]
        shapes[f"{prefix}.mlp.gate.weight"] = (num_experts, hidden)
        if c["model_type"] not in ("deepseek_v2", "qwen3_moe"):
            shapes[f"{prefix}.mlp.gate.e_score_correction_bias"] = (c["n_routed_experts"],)
        for expert in range(num_experts):
            shapes |= mlp_shapes(f"{prefix}.mlp.experts.{expert}", hidden, moe_width)
        if c["model_type"] == "qwen3_moe":
            continue
        shapes |= mlp_shapes(f"{prefix}.mlp.shared_experts", hidden, moe_width * c["n_shared_experts"])
    return shapes


def gain_of(name, case):
    """Standard deviation of a matrix's output for inputs of variance 1; see README.md, "Weights that tell"."""
    if ".mlp.gate." in name or name == "lm_head.weight":
        return 2.0  # spread-out router and logits
    if "q_proj" in name or "q_b_proj" in name or "wq_b" in name:
        return 1.5  # peaked attention
    if ".experts." in name and "down_proj" in name:
        return case.routed_gain
    return 1.2


def random_tensor(name, shape, case):
    """F32 values, not yet rounded to the type on disk."""
    draw = numpy.random.default_rng([case.seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("e_score_correction_bias"):
        values = case.bias_mean + case.bias_std * draw
    elif name.endswith("k_norm.bias"):
        values = 0.2 * draw
    elif name.endswith("q_norm.weight"):
        values = 2.0 + 0.4 * draw  # a gain of q_proj would be normed away
    elif len(shape) == 1:
        values = 1.0 + 0.2 * draw  # norms
    elif name == "model.embed_tokens.weight":
        values = case.embed_std * draw
    else:
        values = draw * (gain_of(name, case) / shape[1] ** 0.5)
    return torch.from_numpy(values).to(torch.float32)


def is_fp8_matrix(name):
    if name.endswith(".indexer.weights_proj.weight"):
        return False
    return name.endswith(("_proj.weight", "_with_mqa.weight", ".wq_b.weight", ".wk.weight"))


def blocks_of(shape):
    for i in range(0, shape[0], FP8_BLOCK):
        for j in range(0, shape[1], FP8_BLOCK):
            yield i // FP8_BLOCK, j // FP8_BLOCK, slice(i, i + FP8_BLOCK), slice(j, j + FP8_BLOCK)


def quantise_fp8(name, values, case):
    """-> (e4m3 matrix, F32 scales [ceil(rows/128), ceil(cols/128)]); value = e4m3 * scale.

    Each block is first stretched by its own factor in [0.5, 2], so that a scale taken from a neighbour shows.
    """
    grid = [-(-n // FP8_BLOCK) for n in values.shape]
    stretch = 2.0 ** numpy.random.default_rng([case.seed, zlib.crc32(name.encode()), 1]).uniform(-1, 1, grid)
    scales = torch.empty(grid, dtype=torch.float32)
    quantised = torch.empty(values.shape, dtype=torch.float8_e4m3fn)
    for row, col, rows, cols in blocks_of(values.shape):
        block = values[rows, cols] * float(stretch[row, col])
        scales[row, col] = block.abs().max() / FP8_MAX
        quantised[rows, cols] = (block / scales[row, col]).to(torch.float8_e4m3fn)
    return quantised, scales


def dequantise_fp8(quantised, scales):
    values = torch.empty(quantised.shape, dtype=torch.float32)
    for row, col, rows, cols in blocks_of(quantised.shape):
        values[rows, cols] = quantised[rows, cols].to(torch.float32) * scales[row, col]
    return values


def build(case):
    """-> (tensors as they lie on disk, the same widened to F32 under the names transformers knows)."""
    on_disk, widened = {}, {}
    for name, shape in tensor_shapes(case.config).items():
        values = random_tensor(name, shape, case)
        if case.dtype == "F8_E4M3" and is_fp8_matrix(name):
            quantised, scales = quantise_fp8(name, values, case)
            on_disk[name] = quantised
            on_disk[name.removesuffix("weight") + "weight_scale_inv"] = scales
            widened[name] = dequantise_fp8(quantised, scales)
            continue
        keep_f32 = name.endswith("e_score_correction_bias")
        on_disk[name] = values if keep_f32 else values.to(DTYPES[case.dtype])
        widened[name] = on_disk[name].to(torch.float32)
    return on_disk, widened


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_tensors(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that only their owner may read


def write(folder, config, tensors, num_shards=1):
    """Writes config.json and model.safetensors, or shards with their index. Shards split the sorted names evenly, so
    that a layer lies on both sides of a border."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    if num_shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return
    names, weight_map = sorted(tensors), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = names[shard * len(names) // num_shards : (shard + 1) * len(names) // num_shards]
        write_tensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= {name: file for name in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
