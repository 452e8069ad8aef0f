"""The texts behind the tokenizer goldens. All of them were written for this file."""
import random

LANGUAGES = [
    "The quick scheduler admits a request, matches it against the cache, and plans the next step. It doesn't wait.\n"
    "Every page holds sixty-four tokens; a hit costs nothing, a miss is computed once and kept.\n"
    "When the pool runs dry, the oldest page that nobody reads is given back, and the server goes on.\n",
    "Der schnelle Zähler läuft über die Straße, während größere Züge fahren. Äpfel, Öl und Übung.\n",
    "L'été dernier, où étiez-vous ? Ça va très bien, merci — à bientôt, cœur léger.\n",
    "El niño comió piñas y bebió agua; ¿cuándo llegará la señora? ¡Mañana!\n",
    "Быстрый поезд идёт на север, а мы остаёмся здесь и ждём ответа.\n",
    "Η γρήγορη αλεπού πηδάει πάνω από τον τεμπέλη σκύλο.\n",
    "服务器收到请求，先查缓存，再安排计算。每一页有六十四个词元；命中不花时间。\n",
    "サーバーは要求を受け取り、キャッシュを調べてから計算します。カタカナとひらがなと漢字。\n",
    "서버는 요청을 받고 캐시를 확인한 다음 계산을 시작합니다. 한글 문장입니다.\n",
    "يستقبل الخادم الطلب ثم يبحث في الذاكرة، وبعد ذلك يحسب الجواب. السَّلَامُ عَلَيْكُمْ\n",
    "सर्वर अनुरोध प्राप्त करता है, फिर उत्तर की गणना करता है। क्षत्रिय ज्ञान श्रृंखला\n",
    "เซิร์ฟเวอร์รับคำขอแล้วตรวจสอบแคช ก่อนจะเริ่มคำนวณ\n",
    "השרת מקבל בקשה ובודק את המטמון לפני החישוב.\n",
    "Tiếng Việt có nhiều dấu: người dùng gửi yêu cầu đến máy chủ.\n",
]

CODE = [
    "int main(int argc, char** argv) {\n    std::vector<int> xs = {1, 2, 3};\n    for (int x : xs) sum += x * 0x1F;\n"
    "    return sum == 42 ? 0 : -1;  // done\n}\n",
    "def mean(values):\n\tif not values:\n\t\treturn None\n\treturn sum(values) / len(values)\n\n\n"
    "print(f\"{mean([1.5, 2.25, 3e-7]):.3f}\")\n",
    "SELECT id, name FROM users WHERE age >= 21 AND email LIKE '%@example.org' ORDER BY id DESC;\n",
    "{\"role\": \"user\", \"content\": \"a\\nb\", \"n\": [1, 2.5, -3e10, null, true]}\n",
    "<div class=\"x\"><a href='https://example.org/?q=1&amp;r=2'>link</a></div>\n",
    "for i in $(seq 1 10); do echo \"$i\" | sed -e 's/1/one/g' >> out.txt; done\n",
]

CONTRACTIONS = [
    "I'm sure they're here; we'll say it's what you'd've wanted, don't you?",
    "IT'S THEY'RE WE'LL I'D YOU'VE 'Tis 'ſ 'ſs 'Kelvin' 'ﬆ 'Ll 'lL 'rE",
    "'s't're've'm'll'd '' 'x' don''t",
]

WHITESPACE = [
    " ", "  ", "   x", "x   ", "x  \n", "\t\tx", " \t \t", "a b  c   d    e", "\n", "\n\n", "\r\n", "\r\n\r\n x\r\ny",
    "a\n  b\n    c\n", "a \n b", "a  \n\n  b", "  \n  \n  ", "\n \n \n", "x\u00a0y", "x\u3000y", "\u2028x\u2029", "a\u0085b",
    "a\u180eb \u180e c", "a\u200bb\u200c\u200d", "\u1680\u2003\u2009x", "\x0b\x0c\x1c\x1d", "end $ \n", " \u3000 \u3000中",
    "      中文      ", "x" + " " * 70 + "y", " " * 40 + "\n" + " " * 9 + "z",
]

DIGITS = [
    "1", "12", "123", "1234", "1234567890", "3.14159", "1,000,000", "-42", "2^10=1024", "٣٤٥٦", "०१२३४", "１２３４", "ⅣⅫ½¾²³①②",
    "x1y22z333", "2024-01-31T23:59:59Z", "0xDEADBEEF", "𝟘𝟙𝟚", "1٢③四5",
]

PUNCTUATION = [
    "!!!", "...", "?!", "a.b.c", "(a)[b]{c}<d>", "«quoted» “double” ‘single’", "。，、；：？！", "—–-_", "#hash @at $usd %pct ^&*",
    "`code` ~tilde~ |pipe|", "a—b", "!important", "$variable", ".method()", "--flag=value", "\\n\\t", "//comment", "€£¥₹", "±×÷≠≤≥∞",
    "※†‡§¶", "～！＠＃", "＜｜＞", "..\n..\r\n..", "!\n\n!",
]

UNICODE = [
    "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "a😀b", "🫨🪿", " 🫨 x", "é", "e\u0301", "n\u0303o", "\u0301x", "a\u0300\u0301\u0302",
    "ﬁﬂﬃ", "ǅ", "ß", "İı", "ſ", "Ａｂｃ", "𝒜𝓫", "한ㄱㅏ", "각", "゛゜ー々〆", "ㇰㇱ", "龥龦鿿㐀𠀀", "\ufeffbom", "\ufffd", "\ufffe\uffff",
    "\U0010ffff", "ؤ‎ئ‏", "ไก่", "தமிழ்", "ကမ္ဘာ", "ខ្មែរ", "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "ᏣᎳᎩ", "ʰʷ", "ªº", "İstanbul", "ÀÁõö÷øùúûüýþÿ", "über Köln",
]

CONTROL = ["\0", "a\0b", "\x01\x02\x03", "\x7f", "\x1b[31mred\x1b[0m", "\x08\x07", "a\u00adb", "\u2060\ufeff\u200e"]

# (unit, count): longer than any buffer, yet one line in the golden.
LONG_RUNS = [("a", 5000), (" ", 5000), ("\n", 3000), ("0", 2000), ("ab", 3000), ("中", 2000), ("你好", 900), ("😀", 900),
             ("\r\n", 1500), ("é", 1500), ("!", 3000), ("\t", 3000), (" a", 1500), ("e\u0301", 800), ("Ω", 900)]


def around(token):
    """A token's text where it might and might not be taken for the token."""
    return [token, f"a{token}b", f" {token} ", token + token, token[:-1], token[1:], f"{token[:-1]} >", f"\n{token}\n"]


def fixed(added):
    yield ""
    for group in (LANGUAGES, CODE, CONTRACTIONS, WHITESPACE, DIGITS, PUNCTUATION, UNICODE, CONTROL):
        yield from group
    for token in added:
        yield from around(token)[:8 if len(added) < 20 else 3]
    yield "".join(added)
    yield "<|EOT|><|EOT|>"
    yield "User: <｜User｜>hello<｜Assistant｜>\n\nAssistant:<｜end▁of▁sentence｜>"


POOLS = [
    range(0x20, 0x7F), range(0x61, 0x7B), range(0x30, 0x3A), range(0x4E00, 0x9FB0), range(0x3000, 0x3100),
    range(0xAC00, 0xD7A4), range(0x600, 0x700), range(0x900, 0x980), range(0x300, 0x370), range(0x1F300, 0x1FB00),
    range(0x80, 0x250), range(0x370, 0x530), range(0x2000, 0x2070), range(0xFF00, 0xFFF0), range(1, 0x20),
    [0x20, 0x20, 0x20, 9, 10, 13, 0xA0, 0x3000], [*range(1, 0xD800), *range(0xE000, 0x110000)],
]


def random_texts(added, count):
    draw = random.Random(20240607)
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 7)):
            if draw.random() < 0.1:
                parts.append(draw.choice(added))
            else:
                pool = draw.choice(POOLS)
                parts.append("".join(chr(draw.choice(pool)) for _ in range(draw.randint(1, 6))))
        yield "".join(parts)
