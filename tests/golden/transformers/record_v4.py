"""Records what Hugging Face transformers computes for small random DeepSeek-V4 checkpoints, as record.py does for the
older families (whose README.md tells the fields).

    python3 tests/golden/transformers/record_v4.py [case ...]      (packages: requirements.txt)

Owns V4's oracle: loading from the files' own names, what its routers and indexers decided, margins. Run by hand; the
tests read the files.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import transformers

import checkpoint
import checkpoint_v4
from cases_v4 import CASES_V4
from record import (MAX_ATTEMPTS, MIN_GREEDY_MARGIN, MIN_INDEX_MARGIN, MIN_ORDER_MARGIN, MIN_ROUTING_MARGIN,
                    NUM_GREEDY, ROOT, continue_with_cache, digits, forward, load, noise_of)

# Pages are 64 tokens, blocks 4 and 128: 300 ends inside a page and inside both kinds of blocks' neighbours.
PROMPTS = [("one_token", 1), ("short", 7), ("one_page_border", 70), ("one_block_of_128", 150), ("two_blocks", 301)]

PROVENANCE = (
    "Computed by Hugging Face transformers on a CPU, one thread, in float32 (weights widened from their type on disk "
    "before loading), eager attention, eager experts, no KV cache; the greedy continuation is transformers' with its "
    "cache, whose last token was checked against a run without. Experts of learned routers are sorted by falling choice "
    "score (sqrt(softplus) + bias), those of hash-routed layers stand in the table's order."
)


def load_oracle(case, widened):
    with tempfile.TemporaryDirectory() as temporary:
        config = {k: v for k, v in case.config.items() if k not in ("quantization_config", "expert_dtype")}
        checkpoint.write(Path(temporary) / "plain", config, widened)
        model = load(Path(temporary) / "plain")
    assert sum(p.numel() for p in model.state_dict().values()) == sum(t.numel() for t in widened.values())
    return model


class Watcher:
    """What routers and indexers of one forward pass were given and answered: (layer -> inputs, output)."""

    def __init__(self, model):
        self.routers_, self.indexers_, self.gates_ = {}, {}, []
        for layer, block in enumerate(model.model.layers):
            block.mlp.gate.register_forward_hook(self.keeper_of(self.routers_, layer))
            indexer = getattr(getattr(block.self_attn, "compressor", None), "indexer", None)
            if indexer is not None:
                indexer.register_forward_hook(self.keeper_of(self.indexers_, layer))
            shared = block.mlp.shared_experts.gate_proj
            shared.register_forward_hook(lambda _m, _i, out: self.gates_.append(out.max().item()))

    def keeper_of(self, store, layer):
        def keep(module, inputs, out):
            store[layer] = (module, inputs, out)

        return keep

    def take(self):
        seen = sorted(self.routers_.items()), sorted(self.indexers_.items()), max(self.gates_, default=0.0)
        self.routers_.clear(), self.indexers_.clear(), self.gates_.clear()
        return seen


# ---------------------------------------------------------------------------------------------- decisions, re-told


def rotate_last(x, angles):
    """Pairs of the last dims of x [..., dim] by angles [..., rope / 2]."""
    start = x.shape[-1] - 2 * angles.shape[-1]
    a, b = x[..., start::2], x[..., start + 1 :: 2]
    turned = torch.stack([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)
    return torch.cat([x[..., :start], turned.flatten(-2)], -1)


def index_keys(module, hidden, inv_freq, eps):
    """[blocks, dim] in F64: block w pools the first series of block w-1 and the second of block w."""
    dim, ape = module.head_dim, module.position_bias.double()
    blocks = len(hidden) // 4
    keys = (hidden @ module.kv_proj.weight.double().T)[: 4 * blocks].view(blocks, 4, 2, dim)
    gates = ((hidden @ module.gate_proj.weight.double().T)[: 4 * blocks].view(blocks, 4, 2 * dim) + ape).view(
        blocks, 4, 2, dim)
    entries = []
    for w in range(blocks):
        k, g = keys[w, :, 1], gates[w, :, 1]
        if w > 0:
            k, g = torch.cat([keys[w - 1, :, 0], k]), torch.cat([gates[w - 1, :, 0], g])
        entries.append((g.softmax(0) * k).sum(0))
    entries = torch.stack(entries)
    entries = entries * (entries.square().mean(-1, keepdim=True) + eps).rsqrt() * module.kv_norm.weight.double()
    return rotate_last(entries, 4.0 * torch.arange(blocks)[:, None].double() * inv_freq)


def inspect_selection(model, module, inputs, chosen):
    """-> (entries chosen by each row that had a choice, ascending; margin of chosen over not chosen; whether
    transformers chose the same)."""
    hidden, query_latent = inputs[0][0].double(), inputs[1][0].double()
    top, inv_freq = module.index_topk, model.model.rotary_emb.compress_inv_freq.double()
    rows, margins, agrees = [], [], True
    if (len(hidden)) // 4 <= top:
        return rows, float("inf"), agrees
    keys = index_keys(module, hidden, inv_freq, module.kv_norm.variance_epsilon)
    queries = (query_latent @ module.q_b_proj.weight.double().T).view(len(hidden), module.num_heads, module.head_dim)
    queries = rotate_last(queries, (torch.arange(len(hidden))[:, None].double() * inv_freq)[:, None])
    weights = hidden @ module.scorer.weights_proj.weight.double().T
    for t in range(4 * (top + 1) - 1, len(hidden)):
        scores = weights[t] @ (queries[t] @ keys[: (t + 1) // 4].T).relu() / module.num_heads
        best = scores.sort(descending=True, stable=True)
        rows.append(sorted(best.indices[:top].tolist()))
        agrees &= rows[-1] == sorted(chosen[t].tolist())
        margins.append((best.values[top - 1] - best.values[top]).item())
    return rows, min(margins), agrees


def inspect_routing(module, out, ids, case, layer):
    """-> (experts [tokens, k] in the engine's order, their weights, routing margin, order margin, events)."""
    _, weights, chosen = out
    k = case.config["num_experts_per_tok"]
    weights, chosen = weights.view(-1, k), chosen.view(-1, k)
    if layer < case.config["num_hash_layers"]:
        assert torch.equal(chosen, module.tid2eid[torch.tensor(ids)])
        return chosen, weights, float("inf"), float("inf"), set()
    logits = out[0].view(len(ids), -1)
    plain = torch.nn.functional.softplus(logits).sqrt()
    ordered = (plain + module.e_score_correction_bias).sort(dim=-1, descending=True)
    best = ordered.indices[:, :k]
    assert torch.equal(best.sort(-1).values, chosen.sort(-1).values), "inspect_routing() disagrees with transformers"
    gaps = ordered.values[:, :k] - ordered.values[:, 1 : k + 1]
    unbiased = plain.sort(dim=-1, descending=True).indices[:, :k]
    events = {"bias"} if (best.sort(-1).values != unbiased.sort(-1).values).any() else set()
    place = (best[:, :, None] == chosen[:, None, :]).int().argmax(-1)
    return best, weights.gather(1, place), gaps[:, k - 1].min().item(), gaps[:, : k - 1].min().item(), events


# ---------------------------------------------------------------------------------------------- one prompt


def record_prompt(model, watcher, case, name, ids):
    """-> the prompt's record and the events in it, or None and the reason why it is not fit to be one."""
    num_tokens = len(ids)
    greedy = continue_with_cache(model, ids)
    watcher.take()
    logits, hidden = forward(model, ids + greedy)
    best = logits[num_tokens - 1 : -1].topk(2)
    if best.indices[:, 0].tolist() != greedy:
        return None, "cache and no cache differ (near tie)"
    greedy_margins = best.values[:, 0] - best.values[:, 1]
    if greedy_margins.min() < MIN_GREEDY_MARGIN:
        return None, "greedy margin"
    routers, indexers, largest_gate = watcher.take()
    experts, margins, orders, events = [], [float("inf")], [float("inf")], set()
    for layer, (module, _inputs, out) in routers:
        chosen, weights, margin, order, seen = inspect_routing(module, out, ids + greedy, case, layer)
        margins.append(margin)
        orders.append(order)
        events |= seen
        experts.append(
            {"layer": layer, "ids": chosen[:num_tokens].tolist(), "weights_last": digits(weights[num_tokens - 1])}
        )
    if largest_gate > case.config["swiglu_limit"]:
        events.add("clamp")
    if min(margins) < MIN_ROUTING_MARGIN or min(orders) < MIN_ORDER_MARGIN:
        return None, "routing margin"
    selected, index_margins = [], [float("inf")]
    for layer, (module, inputs, chosen) in indexers:
        rows, margin, agrees = inspect_selection(model, module, inputs, chosen[0])
        if margin < MIN_INDEX_MARGIN:
            return None, "index margin"
        assert agrees, "inspect_selection() disagrees with transformers"
        index_margins.append(margin)
        count = max(0, num_tokens - (4 * (module.index_topk + 1) - 1))
        if count > 0:
            selected.append({"layer": layer, "positions": rows[:count]})
    # A causal model: the prompt's logits do not depend on what follows, but for the shapes of products.
    logits, hidden = forward(model, ids)
    rows = sorted({0, 1, num_tokens // 3, num_tokens // 2, 63, 64, 127, 128, num_tokens - 1} & set(range(num_tokens)))
    tops = {position: logits[position].topk(5) for position in rows}
    indices = {"selected": selected, "index_min_margin": digits([min(index_margins)])[0]} if selected else {}
    return indices | {
        "name": name,
        "token_ids": ids,
        "logits_last": digits(logits[-1]),
        "top5": [{"position": p, "ids": b.indices.tolist(), "logits": digits(b.values)} for p, b in tops.items()],
        "hidden_last_16": digits(hidden[-1, :16]),
        "experts": experts,
        "greedy_24": greedy,
        "greedy_min_margin": digits([greedy_margins.min()])[0],
        "routing_min_margin": min(1.0, digits([min(margins)])[0]),
        "order_min_margin": min(1.0, digits([min(orders)])[0]),
        "f64_max_logit_difference": float(f"{noise_of(model, ids, logits):.3g}"),
    }, events


@torch.no_grad()
def find_prompt(model, watcher, case, index, name, num_tokens):
    reasons = {}
    for attempt in range(MAX_ATTEMPTS):
        ids = numpy.random.default_rng([case.seed, index, attempt]).integers(
            0, case.config["vocab_size"], num_tokens).tolist()
        record, events = record_prompt(model, watcher, case, name, ids)
        if record is not None:
            return record | {"attempt": attempt}, events
        reasons[events] = reasons.get(events, 0) + 1
    raise SystemExit(f"{case.name}: no {name} prompt with clear margins in {MAX_ATTEMPTS} attempts: {reasons}")


def record_case(case):
    folder = ROOT / case.name
    on_disk, widened = checkpoint_v4.build(case)
    checkpoint.write(folder, case.config, on_disk, case.num_shards)
    model = load_oracle(case, widened)
    watcher, prompts, events = Watcher(model), [], set()
    for index, (name, num_tokens) in enumerate(PROMPTS):
        record, seen = find_prompt(model, watcher, case, index, name, num_tokens)
        print(case.name, name, "attempt", record["attempt"], "noise", record["f64_max_logit_difference"], flush=True)
        prompts.append(record)
        events |= seen
    missing = set(case.must_cover) - events
    assert not missing, f"{case.name}: never met {missing}"
    rotary = model.model.rotary_emb
    goldens = {
        "case": case.name,
        "purpose": case.purpose,
        "provenance": PROVENANCE,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                     "python": platform.python_version()},
        "seed": case.seed,
        "softmax_scale": digits([model.model.layers[0].self_attn.scaling])[0],
        "rope_inv_freq": digits(rotary.main_inv_freq),
        "rope_attention_factor": digits([rotary.main_attention_scaling])[0],
        "compress_inv_freq": digits(rotary.compress_inv_freq),
        "compress_attention_factor": digits([rotary.compress_attention_scaling])[0],
        "routing_events": sorted(events),
        "prompts": prompts,
    }
    (folder / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    print(f"{case.name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1000:.1f} kB, events {sorted(events)}")


def main():
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    transformers.utils.logging.disable_progress_bar()
    wanted = sys.argv[1:]
    for case in CASES_V4:
        if not wanted or case.name in wanted:
            record_case(case)


if __name__ == "__main__":
    main()
