"""The cases: which configurations are recorded, and why each exists.

Owns the config.json of every case and the few numbers that shape its random weights. Builds nothing and runs nothing;
checkpoint.py and record.py read it. Configurations are written as the published checkpoints write them (`rope_theta`,
`rope_scaling` with `type`, `torch_dtype`), not as transformers 5 would save them.
"""

from dataclasses import dataclass, field


@dataclass
class Case:
    name: str
    seed: int
    purpose: str  # what only this case would catch
    config: dict  # config.json, as published checkpoints write it
    dtype: str  # of matrices on disk: F32, BF16, F16, or F8_E4M3 (then the rest is BF16)
    num_shards: int = 1
    embed_std: float = 1.0
    routed_gain: float = 1.0  # of routed experts' down_proj: small where routed_scaling_factor is large
    bias_std: float = 0.0  # of e_score_correction_bias (V3)
    bias_mean: float = 0.0
    must_cover: list = field(default_factory=list)  # routing events (record.py) that have to occur at least once


COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 4,
    "topk_group": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000,
    "rope_scaling": None,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def yarn(mscale, mscale_all_dim, original=4096):
    return {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": mscale,
        "mscale_all_dim": mscale_all_dim,
        "original_max_position_embeddings": original,
    }


def v2(torch_dtype, **changes):
    head = {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": torch_dtype}
    return head | COMMON | {"scoring_func": "softmax", "norm_topk_prob": False} | changes


def v3(torch_dtype, **changes):
    head = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "torch_dtype": torch_dtype}
    routing = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True}
    return head | COMMON | routing | {"routed_scaling_factor": 2.5} | changes


def v32(torch_dtype, **changes):
    """V3.2: index_topk far below the longest prompts; enough index heads that scores of exactly 0 are rare."""
    head = {"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"}
    return v3(torch_dtype) | head | {"index_n_heads": 8, "index_head_dim": 32, "index_topk": 40} | changes


def qwen3(torch_dtype, **changes):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "torch_dtype": torch_dtype,
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 2048,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 3,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | changes


CASES = [
    Case(
        name="v2_lite",
        seed=21,
        purpose="V2-Lite in small: direct queries, greedy softmax routing, YaRN whose m*m (mscale 0.707) is in the "
        "softmax scale, two shared experts, F32 on disk",
        dtype="F32",
        config=v2(
            "float32", q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=1,
            topk_group=1, topk_method="greedy", routed_scaling_factor=1.0, max_position_embeddings=163840,
            rope_scaling=yarn(0.707, 0.707), qk_rope_head_dim=16,
        ),
    ),
    Case(
        name="v2_grouped",
        seed=22,
        purpose="V2 in small: compressed queries, groups scored by their best expert, weights times 16 and not "
        "renormalised, no YaRN, BF16 on disk",
        dtype="BF16",
        routed_gain=0.15,
        must_cover=["group_limit"],
        config=v2("bfloat16", topk_method="group_limited_greedy", routed_scaling_factor=16.0),
    ),
    Case(
        name="v3_noaux",
        seed=31,
        purpose="V3 in small: sigmoid scores, a choice bias with large negative values, groups scored by the sum of "
        "their two best, renormalised weights times 2.5, YaRN factor 40, F16 on disk in two shards",
        dtype="F16",
        num_shards=2,
        bias_std=0.5,
        bias_mean=-0.6,  # so that kept groups hold many negative choice scores: 0.0 in dropped groups would beat them
        must_cover=["group_limit", "bias", "negative_choice"],
        config=v3(
            "float16", num_experts_per_tok=6, max_position_embeddings=163840, rope_scaling=yarn(1.0, 1.0),
            qk_rope_head_dim=16,
        ),
    ),
    Case(
        name="v3_fp8",
        seed=32,
        purpose="FP8 weights with one scale for each 128x128 block, edge blocks partial in rows (144, 160, 192, "
        "64, 32) and in columns (192, 160, 64, 32); groups of exactly two experts",
        dtype="F8_E4M3",
        bias_std=0.3,
        must_cover=["group_limit", "bias"],
        config=v3(
            "bfloat16", hidden_size=192, intermediate_size=160, num_hidden_layers=2, q_lora_rank=64, kv_lora_rank=128,
            qk_rope_head_dim=16, n_routed_experts=8, num_experts_per_tok=3, max_position_embeddings=163840,
            rope_scaling=yarn(1.0, 1.0),
            quantization_config={
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "quant_method": "fp8",
                "weight_block_size": [128, 128],
            },
        ),
    ),
    Case(
        name="v3_variant",
        seed=33,
        purpose="switches no published checkpoint flips, all at once: rope halves instead of pairs, YaRN with mscale "
        "!= mscale_all_dim (cos and sin scaled) beyond its original 64 tokens, direct queries, tied head, one group, "
        "weights not renormalised, two shared experts, rms_norm_eps 1e-3 (the two inner norms keep 1e-6)",
        dtype="BF16",
        embed_std=0.3,
        bias_std=0.3,
        must_cover=["bias"],
        config=v3(
            "bfloat16", q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=2, n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.5, max_position_embeddings=2560,
            rope_scaling=yarn(1.0, 0.5, original=64), qk_rope_head_dim=16, rope_interleave=False,
            tie_word_embeddings=True, rms_norm_eps=1e-3,
        ),
    ),
    Case(
        name="v32_index",
        seed=41,
        purpose="V3.2 in small: an indexer in every layer (dense ones too) that rotates halves of its first 16 dims "
        "while the attention rotates pairs, top 40 of up to 174 positions, YaRN factor 40, BF16 on disk",
        dtype="BF16",
        num_shards=2,
        bias_std=0.3,
        must_cover=["group_limit", "bias"],
        config=v32(
            "bfloat16", vocab_size=192, n_routed_experts=8, num_experts_per_tok=3, max_position_embeddings=163840,
            rope_scaling=yarn(1.0, 1.0), qk_rope_head_dim=16,
        ),
    ),
    Case(
        name="v32_fp8",
        seed=42,
        purpose="V3.2 with FP8 weights, the indexer's wq_b and wk among them (weights_proj is not), an indexer whose "
        "dims are all rotated, top 65 (one more than a page)",
        dtype="F8_E4M3",
        num_shards=2,
        bias_std=0.3,
        must_cover=["group_limit", "bias"],
        config=v32(
            "bfloat16", vocab_size=128, hidden_size=160, intermediate_size=144, num_hidden_layers=2, q_lora_rank=64, kv_lora_rank=64,
            qk_rope_head_dim=16, n_routed_experts=8, num_experts_per_tok=3, index_n_heads=12, index_head_dim=16,
            index_topk=65,
            quantization_config={
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "quant_method": "fp8",
                "weight_block_size": [128, 128],
            },
        ),
    ),
    Case(
        name="qwen3_moe",
        seed=41,
        purpose="Qwen3-30B-A3B in small: four query heads to a key head, heads wider than hidden / heads, normed heads, "
        "renormalised softmax weights, no shared expert, BF16 on disk in two shards",
        dtype="BF16",
        num_shards=2,
        config=qwen3("bfloat16"),
    ),
    Case(
        name="qwen3_variant",
        seed=42,
        purpose="what released files have otherwise or could have: one key head for 20 query heads, dense layers between "
        "(decoder_sparse_step, mlp_only_layers), weights not renormalised, tied head, YaRN whose factor is in the "
        "angles, prompts beyond its original length, eps 1e-3, F32 on disk",
        dtype="F32",
        embed_std=0.25,  # the head's, too
        config=qwen3(
            "float32", num_hidden_layers=4, num_attention_heads=20, num_key_value_heads=1, head_dim=16,
            norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[3], tie_word_embeddings=True,
            rms_norm_eps=1e-03, max_position_embeddings=256,
            rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ),
]
