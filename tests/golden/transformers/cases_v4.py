"""The DeepSeek-V4 cases; the fields of Case are those of cases.py. Configurations are written as the published
checkpoints write them (`compress_ratios` with one entry more than layers, `rope_scaling` with `type`)."""

from cases import Case


def v4(**changes):
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "torch_dtype": "bfloat16",
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 32,
        "o_groups": 2,
        "o_lora_rank": 16,
        "sliding_window": 20,
        "index_n_heads": 8,
        "index_head_dim": 16,
        "index_topk": 8,
        "compress_ratios": [0, 4, 128, 4, 128, 0],
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "num_hash_layers": 2,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "swiglu_limit": 2.0,  # low, so that it cuts
        "hidden_act": "silu",
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-06,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000,
        "compress_rope_theta": 160000,
        "rope_scaling": {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1,
                         "original_max_position_embeddings": 64},
        "max_position_embeddings": 1024,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "num_nextn_predict_layers": 1,
    } | changes


FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
       "weight_block_size": [128, 128]}

CASES_V4 = [
    Case(
        name="v4_flash",
        seed=51,
        purpose="V4-Flash in small: a layer with a window alone, two with chosen entries of 4 positions, two with "
        "entries of 128, hash-routed first two layers, a window (20) that neither 4 nor a page divides, top 8 of up to "
        "80 entries, YaRN beyond its original 64 tokens in the layers with entries alone; BF16 on disk",
        dtype="BF16",
        num_shards=2,
        bias_std=0.3,
        must_cover=["bias", "clamp"],
        config=v4(),
    ),
    Case(
        name="v4_fp4",
        seed=52,
        purpose="V4-Pro in small as published: FP8 blocks with E8M0 scales, packed FP4 experts, layers without a plain "
        "window first, window 128, four groups in the output projection, scaling factor 2.5, partial edge blocks",
        dtype="F8_E4M3",
        num_shards=2,
        bias_std=0.3,
        must_cover=["bias"],
        config=v4(
            hidden_size=160, num_hidden_layers=4, num_attention_heads=8, o_groups=4, sliding_window=128,
            index_n_heads=12, index_head_dim=32, index_topk=40, compress_ratios=[128, 4, 128, 0, 0],
            num_hash_layers=1, routed_scaling_factor=2.5, swiglu_limit=10.0, expert_dtype="fp4",
            quantization_config=FP8,
        ),
    ),
    Case(
        name="v4_variant",
        seed=53,
        purpose="what no published checkpoint has: two streams balanced three times, all dims of a head rotated, "
        "window 5, no YaRN, no hash-routed layer, eps 1e-3 in norms and 1e-2 in the streams; F32 on disk",
        dtype="F32",
        bias_std=0.3,
        must_cover=["bias"],
        config=v4(
            torch_dtype="float32", vocab_size=96, hidden_size=48, num_hidden_layers=3, num_attention_heads=2,
            head_dim=16, qk_rope_head_dim=16, o_groups=1, sliding_window=5, index_n_heads=8, index_topk=5,
            compress_ratios=[4, 128, 4], num_hash_layers=0, hc_mult=2, hc_sinkhorn_iters=3, hc_eps=1e-2,
            rms_norm_eps=1e-3, rope_scaling=None, num_nextn_predict_layers=0,
        ),
    ),
]
