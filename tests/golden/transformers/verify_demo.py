"""Compares tests/golden/demo-moe/goldens.json (made by another PyTorch program) with transformers, on the bundled model.

    python3 tests/golden/transformers/verify_demo.py      (packages: requirements.txt)

Owns nothing; writes nothing. Exits non-zero if a top-5 list, an expert list or a greedy continuation differs, or a logit
by more than 1e-5 relative. Run by hand after either side changed.
"""

import json
from pathlib import Path

import torch

import record

ROOT = Path(__file__).resolve().parents[3]
MAX_RELATIVE = 1e-5


def greedy(model, ids, num_tokens):
    ids = list(ids)
    for _ in range(num_tokens):
        ids.append(int(record.forward(model, ids)[0][-1].argmax()))
    return ids[-num_tokens:]


def compare_prompt(model, router, prompt):
    """-> (problems, largest relative difference of a recorded logit)."""
    router.take()
    logits, _ = record.forward(model, prompt["token_ids"])
    problems, worst = [], 0.0
    for layer, (_, weights, ids) in router.take():
        order = weights[-1].sort(descending=True).indices
        if ids[-1][order].tolist() != prompt["experts_last_token"][str(layer)]:
            problems.append(f"experts of layer {layer}")
    for entry in prompt["top5"]:
        best, expected = logits[entry["position"]].topk(5), torch.tensor(entry["logits"])
        if best.indices.tolist() != entry["ids"]:
            problems.append(f"top-5 at {entry['position']}")
        worst = max(worst, ((best.values - expected).abs() / expected.abs()).max().item())
    if greedy(model, prompt["token_ids"], len(prompt["greedy_32"])) != prompt["greedy_32"]:
        problems.append("greedy continuation")
    if not worst <= MAX_RELATIVE:
        problems.append(f"relative difference {worst:.2g} > {MAX_RELATIVE:.2g}")
    return problems, worst


def main():
    goldens = json.loads((ROOT / "tests/golden/demo-moe/goldens.json").read_text())
    model = record.load(ROOT / "configs/demo-moe")
    router, failed = record.Router(model), False
    for prompt in goldens["prompts"]:
        problems, worst = compare_prompt(model, router, prompt)
        print(f"{prompt['name']:12} largest relative difference {worst:.2g}  {'; '.join(problems) or 'agrees'}")
        failed |= bool(problems)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
