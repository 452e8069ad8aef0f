#!/usr/bin/env python3
"""Records the tokenizer goldens of this folder with Hugging Face's `tokenizers`, which shares no code with Sluice.

    pip install tokenizers==0.23.3
    python3 record.py [FOLDER]     # FOLDER/deepseek-v3-tokenizer/tokenizer.json; without it cases_v3.json stays

Writes
    v2_stages.json        a tokenizer.json with DeepSeek-V2's split stages and ~1,000 entries, trained on texts.py
    cases_v2.json         text -> ids by v2_stages.json
    cases_pipelines.json  the same vocabulary behind other pipelines
    cases_demo.json       text -> ids by configs/demo-moe/tokenizer.json
    unicode_classes.json  which characters the split patterns' classes match
    cases_v3.json         text -> ids by the real DeepSeek-V3 tokenizer (not in this repository)
"""
import json
import random
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import texts

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

# Letters with case, as DeepSeek-V2's second stage lists them.
V2_LETTERS = """41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C
38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A
1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC
1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134
2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787
A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2
118A0-118DF 1E900-1E943"""
V2_PUNCTUATION = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
V2_CJK = "4E00-9FA5 800-4E00 AC00-D7FF"
# Bytes that no UTF-8 text contains have no entry in DeepSeek-V2's vocabulary.
NEVER_IN_UTF8 = [0xC0, 0xC1, *range(0xF5, 0x100)]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")

QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# What normal form C changes: marks that join, that are put in order, that stay; syllables; characters that fall apart.
DECOMPOSED = ["e\u0301le\u0300ve", "a\u0323\u0302", "a\u0302\u0323", "q\u0307\u0323", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u212b \u2126",
              "\u0958\u0915\u093c", "\u0301 \u0301", "<\uff5cUser\uff5c>\u0301x", "\uf900\u2f800\U0002f800", "\u0344"]


def class_of(ranges):
    """[...] of hex ranges, its characters written as themselves, as the published files have it."""
    def shown(code):
        character = chr(int(code, 16))
        return "\\" + character if character in "[]\\^-&" else character
    return "[" + "".join("-".join(shown(end) for end in item.split("-")) for item in ranges.split()) + "]"


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


def v2_stages():
    cjk = class_of(V2_CJK)
    return [
        split("[\r\n]"),
        split(r"\s?" + class_of(V2_LETTERS) + "+"),
        split(r"\s?" + class_of(V2_PUNCTUATION) + "+"),
        split(r"\s+$"),
        split(cjk + "+"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def byte_character(byte):
    """The character that stands for a byte in a byte-level vocabulary."""
    shown = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    return chr(byte) if byte in shown else chr(256 + [b for b in range(256) if b not in shown].index(byte))


def train_v2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(v2_stages())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = [byte_character(b) for b in range(256) if b not in NEVER_IN_UTF8]
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    corpus = [*texts.LANGUAGES, *texts.CODE, (ROOT / "configs/demo-moe/MODEL_CARD.md").read_text()]
    tokenizer.train_from_iterator([line for text in corpus for line in text.splitlines(keepends=True)], trainer)
    tokenizer.add_special_tokens([AddedToken(BOS, normalized=False, special=True),
                                  AddedToken(EOS, normalized=False, special=True)])
    # V2 keeps a token for each byte that its vocabulary lacks, spelled as that byte's letter and not special.
    letters = [byte_character(b) for b in NEVER_IN_UTF8]
    tokenizer.add_tokens([AddedToken(t, normalized=True) for t in [*letters, "<｜User｜>", "<|EOT|>", "<|EOT|><|"]])
    return tokenizer


def without_control(tokenizer):
    """The oracle for SpecialTokens::kAsText: the same tokenizer with control tokens that no text of ours contains."""
    data = json.loads(tokenizer.to_str())
    for i, token in enumerate(data["added_tokens"]):
        if token["special"] or token["content"][0] in "<[|":  # kept, under another name: the others keep their ids
            token["content"] = f"\U000F1234{i}\U000F1234"
    return Tokenizer.from_str(json.dumps(data))


def runs(ids):
    result = []
    for token in ids:
        if result and result[-1][0] == token:
            result[-1][1] += 1
        else:
            result.append([token, 1])
    return result


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def record(tokenizer, name, num_random):
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    added = added if len(added) < 40 else added[:3] + added[-16:]
    plain = without_control(tokenizer)
    cases = []
    for text in [*texts.fixed(added), *texts.random_texts(added, num_random)]:
        case = {"text": text, "ids": encode(tokenizer, text)}
        as_text = encode(plain, text)
        if as_text != case["ids"]:
            case["ids_as_text"] = as_text
        cases.append(case)
    long_runs = [{"unit": unit, "count": count, "runs": runs(encode(tokenizer, unit * count))}
                 for unit, count in texts.LONG_RUNS]
    draw = random.Random(5)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    decodes = []
    for _ in range(60):
        ids = [draw.randrange(size) for _ in range(draw.randint(1, 12))]
        decodes.append({"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False),
                        "text_without_special": tokenizer.decode(ids, skip_special_tokens=True)})
    write(name, {"made_with": "tokenizers " + tokenizers.__version__, "cases": cases, "long_runs": long_runs,
                 "decodes": decodes})


def write(name, content):
    lines = []
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def pipelines():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def sequence(*stages):
        return pre_tokenizers.Sequence([*stages, byte_level])

    yield "gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    yield "gpt2 with prefix space", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    yield "prefix space on each word", pre_tokenizers.Sequence(
        [split(r"\s+", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    yield "llama3", sequence(split(LLAMA3))
    yield "qwen", sequence(split(QWEN))
    yield "digits together", sequence(pre_tokenizers.Digits(individual_digits=False))
    yield "string", sequence(pre_tokenizers.Split("e.", "isolated"))
    for behavior in ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            yield f"{behavior}{' inverted' if invert else ''}", sequence(split(r"[\s\p{P}]", behavior, invert))


def unicode_texts():
    """Random marks and what they may join."""
    generator = random.Random(3)
    marks = [c for c in range(0x300, 0x3100) if unicodedata.combining(chr(c))]
    whole = [c for c in range(0xC0, 0x2FA1E) if unicodedata.decomposition(chr(c))]
    sources = [marks, whole, range(0x41, 0x7B), range(0x1100, 0x1200), range(0xAC00, 0xD7A4)]
    return ["".join(chr(generator.choice(generator.choice(sources))) for _ in range(12)) for _ in range(60)]


def record_pipelines(tokenizer):
    sample = [*texts.LANGUAGES, *texts.CODE, *texts.CONTRACTIONS, *texts.random_texts(["<｜User｜>"], 25)]
    result = []
    for name, stage in pipelines():
        data = json.loads(tokenizer.to_str())
        data["pre_tokenizer"] = json.loads(stage.__getstate__())
        normalizer = {"normalizer": {"type": "NFC"}} if name == "qwen" else {}
        more = DECOMPOSED + unicode_texts() if normalizer else []
        for token in data["added_tokens"] if normalizer else []:
            token["normalized"] = False
        variant = Tokenizer.from_str(json.dumps(data | normalizer))
        result.append({"name": name, "pre_tokenizer": data["pre_tokenizer"], **normalizer,
                       "cases": [[text, encode(variant, text)] for text in sample + more]})
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = True
    variant = Tokenizer.from_str(json.dumps(data))
    result.append({"name": "ignore_merges", "ignore_merges": True,
                   "cases": [[text, encode(variant, text)] for text in sample]})
    write("cases_pipelines.json", {"made_with": "tokenizers " + tokenizers.__version__, "pipelines": result})


def record_classes():
    """Character ranges of the classes that split patterns use, by the oracle's regex engine."""
    characters = [chr(c) for c in [*range(0xD800), *range(0xE000, 0x110000)]]
    classes = {}
    for pattern in [r"\s", r"\p{L}", r"\p{M}", r"\p{N}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Lm}", r"\p{So}", r"\p{Z}"]:
        removed = split(pattern, "removed")
        ranges = []
        for begin in range(0, len(characters), 4096):
            text = "".join(characters[begin:begin + 4096])
            left = {c for piece, _ in removed.pre_tokenize_str(text) for c in piece}
            for code in (ord(c) for c in text if c not in left):
                if ranges and ranges[-1][1] == code - 1:
                    ranges[-1][1] = code
                else:
                    ranges.append([code, code])
        classes[pattern] = ranges
    write("unicode_classes.json", {"made_with": "tokenizers " + tokenizers.__version__,
                                   "classes": [{"pattern": p, "ranges": r} for p, r in classes.items()]})


def main():
    record_classes()
    v2 = train_v2()
    (HERE / "v2_stages.json").write_text(v2.to_str(pretty=False) + "\n")
    record(v2, "cases_v2.json", 150)
    record_pipelines(v2)
    record(Tokenizer.from_file(str(ROOT / "configs/demo-moe/tokenizer.json")), "cases_demo.json", 100)
    if len(sys.argv) > 1:
        record(Tokenizer.from_file(f"{sys.argv[1]}/deepseek-v3-tokenizer/tokenizer.json"), "cases_v3.json", 200)


if __name__ == "__main__":
    main()
