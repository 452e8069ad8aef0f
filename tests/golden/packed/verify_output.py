#!/usr/bin/env python3
"""Reads a directory that `sluice quantize` wrote with compressed-tensors itself, and compares it with the original.

    verify_output.py ORIGINAL QUANTISED        (torch, compressed-tensors==0.20.0, safetensors)

Checks that the config is one of its own, that its rules name a scheme for exactly the modules that are stored as codes,
and prints the relative error of what it makes of them. Run by hand; no test needs it.
"""
import json
import pathlib
import re
import sys

import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus
from safetensors.torch import load_file


def load(directory):
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def named(pattern, module):
    return re.match(pattern[3:], module) if pattern.startswith("re:") else pattern == module


def scheme_of(config, module):
    """A module's own name goes before its class, which is Linear for all that are asked for."""
    if any(named(pattern, module) for pattern in config.ignore):
        return None
    schemes = [(target, scheme) for scheme in config.config_groups.values() for target in scheme.targets]
    by_name = [scheme for target, scheme in schemes if named(target, module)]
    by_class = [scheme for target, scheme in schemes if target == "Linear"]
    return (by_name + by_class)[0]


def main():
    original, quantised = load(sys.argv[1]), load(sys.argv[2])
    config_json = json.loads((pathlib.Path(sys.argv[2]) / "config.json").read_text())
    config = QuantizationConfig.model_validate(config_json["quantization_config"])
    assert config.format == "pack-quantized" and config.quantization_status == QuantizationStatus.COMPRESSED
    missed = total = 0.0
    modules = 0
    for name, weight in original.items():
        module = name.removesuffix(".weight")
        state = {key: quantised.pop(f"{module}.{key}") for key in
                 ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point") if f"{module}.{key}" in quantised}
        linear = weight.dim() == 2 and module != "model.embed_tokens"
        if not state:
            assert not linear or scheme_of(config, module) is None, f"{module}: no codes, but a scheme"
            assert torch.equal(quantised.pop(name), weight), f"{name}: changed"
            continue
        state["weight_scale"] = state["weight_scale"].to(torch.float32)
        state["weight_shape"] = torch.Size(state["weight_shape"].tolist())
        scheme = scheme_of(config, module)
        assert scheme is not None, f"{module}: codes, but no scheme"
        assert state["weight_scale"].shape[1] * scheme.weights.group_size == weight.shape[1], f"{module}: group"
        found = PackedQuantizationCompressor.decompress(state, scheme)["weight"].to(torch.float64)
        missed += ((found - weight.to(torch.float64)) ** 2).sum().item()
        total += (weight.to(torch.float64) ** 2).sum().item()
        modules += 1
    assert not quantised, f"left over: {sorted(quantised)[:3]}"
    print(json.dumps({"modules": modules, "relative_error": (missed / total) ** 0.5}))


if __name__ == "__main__":
    main()
