"""Parent of the known values in random_weights_test.cc: the same function in whole numbers, independent of the C++.

Prints, for each of the test's cases, six values in units of the smallest step.
"""

WORD = (1 << 64) - 1
HALF = (1 << 32) - 1
GOLDEN = 0x9E3779B97F4A7C15
BLOCK = 256


def mix64(x):
    for _ in range(2):
        x ^= x >> 32
        x = x * 0xD6E8FEB86659FD93 & WORD
    return x ^ (x >> 32)


def tensor_key(seed, tensor):
    name = tensor.encode()
    key = mix64((seed + GOLDEN) & WORD)
    for i in range(0, len(name), 8):
        key = (mix64(key ^ int.from_bytes(name[i : i + 8], "little")) + GOLDEN) & WORD
    return mix64(key ^ len(name))


def value(seed, tensor, element):
    key = mix64((tensor_key(seed, tensor) + element // BLOCK * GOLDEN) & WORD)
    x = (element % BLOCK * 0x9E3779B1 + key) & HALF
    x = (x ^ (x >> 16)) * 0x21F0AAAD & HALF
    x ^= key >> 32
    x = (x ^ (x >> 15)) * 0x735A2D97 & HALF
    x ^= x >> 15
    return sum(x.to_bytes(4, "little")) - 510


if __name__ == "__main__":
    cases = [
        (0, "a", 0),
        (1, "model.layers.3.mlp.experts.17.gate_proj.weight", 253),
        (WORD, "lm_head.weight", 1 << 40),
    ]
    for seed, tensor, begin in cases:
        print([value(seed, tensor, begin + i) for i in range(6)])
