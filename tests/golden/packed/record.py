#!/usr/bin/env python3
"""Records cases.json: small matrices in the layouts in which quantised models are published, packed by the tools that
publish them, with the weights that those tools say they mean.

    pip install torch compressed-tensors==0.20.0 numpy
    pip download --no-deps autoawq==0.2.9            # only awq/utils/packing_utils.py of it is used
    record.py PATH/awq/utils/packing_utils.py

pack-quantized comes from compressed-tensors itself, AWQ is unpacked by AutoAWQ, and GPTQ (version 1) is what AutoAWQ's
own conversion for GPTQ kernels makes of it. Only re-recording needs any of this, no test does.
"""
import base64
import importlib.util
import json
import pathlib
import sys

import torch
from compressed_tensors.compressors.pack_quantized import base as pack_quantized
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

ROWS, COLS = 16, 64
NAMES = {torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16"}


def tensor(value):
    data = value.contiguous().view(torch.uint8).numpy().tobytes()
    return {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data": base64.b64encode(data).decode()}


def case(name, config, tensors, weights):
    return {"name": name, "quantization_config": config, "tensors": {k: tensor(v) for k, v in tensors.items()},
            "weights": weights.to(torch.float32).flatten().tolist()}


def random_scales(generator, shape, dtype):
    return (torch.rand(shape, generator=generator) * 0.02 + 0.005).to(dtype)


def compressed_tensors_case(name, bits, symmetric, group, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    groups = COLS // group if group else 1
    codes = torch.randint(low, high + 1, (ROWS, COLS), generator=generator).to(torch.int8)
    scale = random_scales(generator, (ROWS, groups), torch.bfloat16)
    state = {"weight_packed": pack_to_int32(codes, bits), "weight_scale": scale,
             "weight_shape": torch.tensor([ROWS, COLS])}
    if not symmetric:
        zero = torch.randint(low, high + 1, (ROWS, groups), generator=generator).to(torch.int8)
        state["weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0).contiguous()
    arguments = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel",
                 "group_size": group or None}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
    wide = dict(state, weight_scale=scale.to(torch.float32))  # the products themselves, not rounded to bf16
    weights = pack_quantized.PackedQuantizationCompressor.decompress(wide, scheme)["weight"]
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments, "input_activations": None,
                                            "output_activations": None}}, "ignore": ["lm_head"]}
    return case(name, config, state, weights)


def awq_and_gptq_cases(awq, seed):
    generator = torch.Generator().manual_seed(seed)
    group = 32
    word = lambda *shape: torch.randint(-(1 << 31), 1 << 31, shape, generator=generator).to(torch.int32)
    qweight, qzeros = word(COLS, ROWS // 8), word(COLS // group, ROWS // 8)
    scales = random_scales(generator, (COLS // group, ROWS), torch.float16)
    weights = awq.dequantize_gemm(qweight, qzeros, scales.to(torch.float32), 4, group).T
    yield case("awq", {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"},
               {"qweight": qweight, "qzeros": qzeros, "scales": scales}, weights)
    # The conversion subtracts 1 without a borrow between nibbles, so it is given no zero point of 0.
    filled = qzeros | 0x11111111
    weights = awq.dequantize_gemm(qweight, filled, scales.to(torch.float32), 4, group).T
    gptq_weight, gptq_zeros = awq.unpack_reorder_pack(qweight, filled, 4)
    tensors = {"qweight": gptq_weight, "qzeros": gptq_zeros, "scales": scales,
               "g_idx": (torch.arange(COLS) // group).to(torch.int32)}
    config = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": False}
    yield case("gptq", config, tensors, weights)
    plus_one = gptq_zeros + 0x11111111
    yield case("gptq_v2", dict(config, checkpoint_format="gptq_v2"), dict(tensors, qzeros=plus_one), weights)


def main():
    spec = importlib.util.spec_from_file_location("packing_utils", sys.argv[1])
    awq = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(awq)
    cases = [compressed_tensors_case("int4_group32", 4, True, 32, 1),
             compressed_tensors_case("int4_channel", 4, True, 0, 2),
             compressed_tensors_case("int8_channel", 8, True, 0, 3),
             compressed_tensors_case("int4_asymmetric", 4, False, 32, 4), *awq_and_gptq_cases(awq, 5)]
    path = pathlib.Path(__file__).with_name("cases.json")
    path.write_text(json.dumps({"rows": ROWS, "cols": COLS, "cases": cases}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
