"""Records what Hugging Face transformers computes for small random DeepSeek and Qwen3-MoE checkpoints.

    python3 tests/golden/transformers/record.py [case ...]      (packages: requirements.txt)

Owns the oracle: it loads each checkpoint from its files into transformers, in F32 with eager attention, and writes
<case>/goldens.json (fields: README.md). Knows nothing of this project's engine. Run by hand; the tests read the files.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

import checkpoint
from cases import CASES

ROOT = Path(__file__).resolve().parent
PROMPTS = [("one_token", 1), ("short", 7), ("one_page_border", 70), ("two_page_borders", 150)]  # pages: 64 tokens
NUM_GREEDY = 24
# Smallest differences a prompt may have and still be recorded; F32 noise here is about 1e-6 in scores, 1e-5 in logits.
MIN_ROUTING_MARGIN = 1e-4  # chosen against not chosen: experts, groups
MIN_ORDER_MARGIN = 1e-5  # between two chosen experts: their order
MIN_GREEDY_MARGIN = 1e-3  # best logit against the second
MIN_INDEX_MARGIN = 1e-5  # of the indexer's scores, which are about 1: chosen position against not chosen
MAX_ATTEMPTS = 400

PROVENANCE = (
    "Computed by Hugging Face transformers on a CPU, one thread, in float32 (weights widened from their type on disk; "
    "FP8: e4m3 value times block scale, before loading), eager attention, eager experts (summed by ascending expert "
    "id), no KV cache; the greedy continuation was checked against a run with transformers' cache. softmax_scale is "
    "the attribute `scaling` of its attention modules, unpatched: this version multiplies by m*m itself for "
    "deepseek_v2 and deepseek_v3. Experts are sorted by falling choice score (V2: probability; V3: sigmoid score + "
    "bias). Greedy does not stop at eos."
)


def digits(values):
    """9 significant digits: enough to give back the same F32."""
    return [float(f"{v:.9g}") for v in torch.as_tensor(values).flatten().tolist()]


# ---------------------------------------------------------------------------------------------- the model


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    problems = {what: names for what, names in info.items() if names}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def load_oracle(case, folder, widened):
    """From the case's own files; FP8 from a temporary folder with the widened weights. Checks the on-disk layout: what
    transformers saves has to be the same tensors under the same names."""
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / "plain"
        if case.dtype == "F8_E4M3":
            config = {k: v for k, v in case.config.items() if k != "quantization_config"}
            checkpoint.write(plain, config, widened)
        model = load(plain if case.dtype == "F8_E4M3" else folder)
        model.save_pretrained(Path(temporary) / "saved")
        saved = load_file(Path(temporary) / "saved" / "model.safetensors")
    assert saved.keys() == widened.keys(), sorted(saved.keys() ^ widened.keys())
    for name, values in saved.items():
        assert torch.equal(values, widened[name]), name
    return model


class Router:
    """What the routers of one forward pass computed: layer -> (logits, weights, expert ids), all [tokens, ...]."""

    def __init__(self, model):
        self.seen_ = {}
        for layer, block in enumerate(model.model.layers):
            if hasattr(block.mlp, "gate"):
                block.mlp.gate.register_forward_hook(self.keeper_of(layer))

    def keeper_of(self, layer):
        def keep(_module, _inputs, out):
            self.seen_[layer] = out

        return keep

    def take(self):
        seen, self.seen_ = self.seen_, {}
        return sorted(seen.items())


class Indexer:
    """What the indexers of one forward pass were given and chose: layer -> (inputs, positions [tokens, top])."""

    def __init__(self, model):
        self.seen_ = {}
        for layer, block in enumerate(model.model.layers):
            if hasattr(block.self_attn, "indexer"):
                block.self_attn.indexer.register_forward_hook(self.keeper_of(layer))

    def keeper_of(self, layer):
        def keep(module, inputs, out):
            self.seen_[layer] = (module, inputs, out[0])

        return keep

    def take(self):
        seen, self.seen_ = self.seen_, {}
        return sorted(seen.items())


def rotate_halves(x, cos, sin):
    """The first dims of x [tokens, heads, dim] by angles [tokens, rope]."""
    dim = cos.shape[-1]
    a, b = x[..., : dim // 2], x[..., dim // 2 : dim]
    cos, sin = cos[:, None, : dim // 2], sin[:, None, : dim // 2]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., dim:]], -1)


def inspect_selection(module, inputs, chosen):
    """The indexer's scores, re-told, in F64.

    -> (positions chosen by each row that had a choice, ascending; margin of chosen over not chosen; whether
    transformers chose the same)."""
    hidden, query_latent, (cos, sin) = inputs[0][0].double(), inputs[1][0].double(), inputs[2]
    top = module.index_topk
    norm, cos, sin = module.k_norm, cos[0].double(), sin[0].double()
    keys = torch.nn.functional.layer_norm(
        hidden @ module.wk.weight.double().T, [module.head_dim], norm.weight.double(), norm.bias.double(), 1e-6
    )
    keys = rotate_halves(keys[:, None], cos, sin)[:, 0]
    queries = (query_latent @ module.wq_b.weight.double().T).view(len(hidden), module.n_heads, module.head_dim)
    queries = rotate_halves(queries, cos, sin)
    weights = hidden @ module.weights_proj.weight.double().T * (module.n_heads * module.head_dim) ** -0.5
    rows, margins, agrees = [], [], True
    for t in range(top, len(hidden)):
        scores = weights[t] @ (queries[t] @ keys[: t + 1].T).relu()
        best = scores.sort(descending=True, stable=True)
        rows.append(sorted(best.indices[:top].tolist()))
        agrees &= rows[-1] == sorted(chosen[t].tolist())
        margins.append((best.values[top - 1] - best.values[top]).item())
    return rows, min(margins, default=float("inf")), agrees


# ---------------------------------------------------------------------------------------------- routing, re-told


def choose(scores, c):
    """Scores [tokens, experts] -> (the same, experts of dropped groups at -inf; margin of kept over dropped groups)."""
    num_groups = c["n_group"] if c.get("topk_method", "greedy") != "greedy" else 1
    if num_groups == 1:
        return scores, float("inf")
    grouped = scores.view(len(scores), num_groups, -1)
    best = 2 if c["topk_method"] == "noaux_tc" else 1
    group_scores = grouped.topk(best, dim=-1)[0].sum(-1)
    order = group_scores.sort(dim=-1, descending=True)
    kept = torch.zeros_like(group_scores).scatter_(1, order.indices[:, : c["topk_group"]], 1).bool()
    margin = order.values[:, c["topk_group"] - 1] - order.values[:, c["topk_group"]]
    return grouped.masked_fill(~kept[..., None], float("-inf")).view_as(scores), margin.min().item()


def top(scores, k):
    return scores.sort(dim=-1, descending=True).indices[:, :k]


def inspect_routing(layer_out, bias, c):
    """Sorts what transformers chose by falling choice score and measures how sure the choice was.

    -> (ids [tokens, k], weights [tokens, k], routing margin, order margin, events that occurred)."""
    logits, weights, ids = layer_out
    k, is_v3 = c["num_experts_per_tok"], c["model_type"] not in ("deepseek_v2", "qwen3_moe")
    plain = logits.sigmoid() if is_v3 else logits.softmax(-1)
    scores = plain + bias if is_v3 else plain
    allowed, group_margin = choose(scores, c)
    ordered = allowed.sort(dim=-1, descending=True)
    chosen = ordered.indices[:, :k]
    assert torch.equal(chosen.sort(-1).values, ids.sort(-1).values), "choose() disagrees with transformers"
    gaps = ordered.values[:, :k] - ordered.values[:, 1 : k + 1]
    position = (chosen[:, :, None] == ids[:, None, :]).int().argmax(-1)

    def differs(other):
        return bool((chosen.sort(-1).values != top(other, k).sort(-1).values).any())

    events = {
        "group_limit": differs(scores),  # an expert outside the kept groups had a better score
        "bias": is_v3 and differs(choose(plain, c)[0]),  # without the bias another set
        "negative_choice": bool((ordered.values[:, :k] < 0).any()),  # dropped groups at 0.0, not -inf, would differ
    }
    order_margin = gaps[:, : k - 1].min().item() if k > 1 else float("inf")
    return chosen, weights.gather(1, position), min(gaps[:, k - 1].min().item(), group_margin), order_margin, events


# ---------------------------------------------------------------------------------------------- one prompt


@torch.no_grad()
def forward(model, ids):
    """-> (logits [tokens, vocab], hidden state after the final norm [tokens, hidden])."""
    hidden = model.model(torch.tensor([ids]), use_cache=False).last_hidden_state
    return model.lm_head(hidden)[0], hidden[0]


def continue_greedily(model, ids):
    ids, margins = list(ids), []
    for _ in range(NUM_GREEDY):
        best = forward(model, ids)[0][-1].topk(2)
        ids.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return ids[-NUM_GREEDY:], margins


@torch.no_grad()
def continue_with_cache(model, ids):
    cache, fed, out = DynamicCache(config=model.config), list(ids), []
    for _ in range(NUM_GREEDY):
        logits = model(torch.tensor([fed]), past_key_values=cache, use_cache=True).logits
        fed = [int(logits[0, -1].argmax())]
        out += fed
    return out


def noise_of(model, ids, logits):
    """Largest difference of the last logits to a run with F64 matrix products: a yardstick for tolerances."""
    exact = forward(model.double(), ids)[0][-1]
    model.float()
    return (exact - logits[-1]).abs().max().item()


def record_prompt(model, router, indexer, case, name, ids):
    """-> the prompt's record, or the reason why it is not fit to be one."""
    c, num_tokens = case.config, len(ids)
    logits, hidden = forward(model, ids)
    greedy, greedy_margins = continue_greedily(model, ids)
    if min(greedy_margins) < MIN_GREEDY_MARGIN:
        return None, "greedy margin"
    router.take(), indexer.take()
    forward(model, ids + greedy)  # the margins have to hold on the continuation too
    selected, index_margins = [], [float("inf")]
    for layer, (module, inputs, chosen) in indexer.take():
        rows, margin, agrees = inspect_selection(module, inputs, chosen)
        if margin < MIN_INDEX_MARGIN:
            return None, "index margin"
        assert agrees, "inspect_selection() disagrees with transformers"
        index_margins.append(margin)
        selected.append({"layer": layer, "positions": rows[: max(0, num_tokens - module.index_topk)]})
    experts, margins, orders, events = [], [], [], set()
    for layer, out in router.take():
        bias = getattr(model.model.layers[layer].mlp.gate, "e_score_correction_bias", None)
        chosen, weights, margin, order, seen = inspect_routing(out, bias, c)
        margins.append(margin)
        orders.append(order)
        events |= {event for event, occurred in seen.items() if occurred}
        experts.append(
            {"layer": layer, "ids": chosen[:num_tokens].tolist(), "weights_last": digits(weights[num_tokens - 1])}
        )
    if min(margins) < MIN_ROUTING_MARGIN or min(orders) < MIN_ORDER_MARGIN:
        return None, "routing margin"
    assert continue_with_cache(model, ids) == greedy
    others = sorted({0, 1, num_tokens // 3, num_tokens // 2, 63, 64, 127, 128, num_tokens - 1} & set(range(num_tokens)))
    best = {position: logits[position].topk(5) for position in others}
    indices = {"selected": selected} if num_tokens > c.get("index_topk", num_tokens) else {}
    if indices:
        indices["index_min_margin"] = digits([min(index_margins)])[0]
    return indices | {
        "name": name,
        "token_ids": ids,
        "logits_last": digits(logits[-1]),
        "top5": [{"position": p, "ids": b.indices.tolist(), "logits": digits(b.values)} for p, b in best.items()],
        "hidden_last_16": digits(hidden[-1, :16]),
        "experts": experts,
        "greedy_24": greedy,
        "greedy_margins": digits(greedy_margins),
        "greedy_min_margin": digits([min(greedy_margins)])[0],
        "routing_min_margin": digits([min(margins)])[0],
        "order_min_margin": digits([min(orders)])[0],
        "f64_max_logit_difference": float(f"{noise_of(model, ids, logits):.3g}"),
    }, events


def find_prompt(model, router, indexer, case, index, name, num_tokens):
    """Draws token ids until the prompt's decisions are all clear enough to be tested exactly."""
    for attempt in range(MAX_ATTEMPTS):
        draw = numpy.random.default_rng([case.seed, index, attempt])
        ids = draw.integers(0, case.config["vocab_size"], num_tokens).tolist()
        record, events = record_prompt(model, router, indexer, case, name, ids)
        if record is not None:
            return record | {"attempt": attempt}, events
    raise SystemExit(f"{case.name}: no {name} prompt with clear margins in {MAX_ATTEMPTS} attempts")


# ---------------------------------------------------------------------------------------------- one case


@torch.no_grad()
def attention_peaks(model, ids):
    """Per layer: mean over heads of the largest attention weight at the last position (uniform would be 1/tokens)."""
    attentions = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return [float(f"{a[0, :, -1].max(-1).values.mean():.3g}") for a in attentions]


def record_case(case):
    folder = ROOT / case.name
    on_disk, widened = checkpoint.build(case)
    checkpoint.write(folder, case.config, on_disk, case.num_shards)
    model = load_oracle(case, folder, widened)
    router, indexer, prompts, events = Router(model), Indexer(model), [], set()
    for index, (name, num_tokens) in enumerate(PROMPTS):
        record, seen = find_prompt(model, router, indexer, case, index, name, num_tokens)
        prompts.append(record)
        events |= seen
    missing = set(case.must_cover) - events
    assert not missing, f"{case.name}: routing never met {missing}"
    rotary, attention = model.model.rotary_emb, model.model.layers[0].self_attn
    goldens = {
        "case": case.name,
        "purpose": case.purpose,
        "provenance": PROVENANCE,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                     "python": platform.python_version()},
        "seed": case.seed,
        "softmax_scale": digits([attention.scaling])[0],
        "rope_inv_freq": digits(rotary.inv_freq),
        "rope_attention_factor": digits([rotary.attention_scaling])[0],
        "routing_events": sorted(events),
        "attention_peaks": attention_peaks(model, prompts[-1]["token_ids"]),
        "prompts": prompts,
    }
    (folder / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    report(case, folder, goldens)


def report(case, folder, goldens):
    size = sum(file.stat().st_size for file in folder.iterdir())

    def low(field):
        return min(prompt[field] for prompt in goldens["prompts"])

    print(
        f"{case.name:12} {size / 1000:7.1f} kB  margins: routing {low('routing_min_margin'):.2g} order "
        f"{low('order_min_margin'):.2g} greedy {low('greedy_min_margin'):.2g}  attempts "
        f"{[p['attempt'] for p in goldens['prompts']]}  scale {goldens['softmax_scale']:.6f} af "
        f"{goldens['rope_attention_factor']:.4f}  peaks {goldens['attention_peaks']}  f64 "
        f"{max(p['f64_max_logit_difference'] for p in goldens['prompts']):.1e}  events {goldens['routing_events']}"
    )


def main():
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    transformers.utils.logging.disable_progress_bar()
    wanted = sys.argv[1:] or [case.name for case in CASES]
    unknown = set(wanted) - {case.name for case in CASES}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}")
    for case in CASES:
        if case.name in wanted:
            record_case(case)


if __name__ == "__main__":
    main()
