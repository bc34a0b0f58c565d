"""Texts in which two ways to encode would differ, if they differ anywhere."""

SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
HARD_TEXTS = [
    "",
    *SPACES,
    *(f"a{space}{space}b {space} {space}1{space}" for space in SPACES),
    # Each of many characters after a letter, alone, and between digits.
    *(
        "".join(f"a{chr(code)} {chr(code)}b 1{chr(code)}2" for code in codes)
        for codes in (range(0x3100), range(0xA000, 0xA800), range(0xF900, 0x10000))
    ),
    *(
        "".join(f"x{chr(code)}y " for code in codes)
        for codes in (range(0x10000, 0x10FFFF, 997), range(0x1F300, 0x1FB00))
    ),
    "it's I'm you're they've we'll he'd IT'S 'tis ''s 's's rock'n'roll '\u2019s",
    "1 12 123 1234567890 3.14159e-10 0x7fFF ١٢٣ ४५६ ½ Ⅷ ² 1st",
    "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea\U0001f1eb \u2764\ufe0f",
    "\U0001f44d\U0001f3fd 👍🏽👍",
    "汉字没有空格、日本語もそうです。한국어는 있다",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c",
    "e\u0301 \u00e9 \u1e9b\u0323 \u0958 \u0e01\u0e33 Z\u0351\u036b\u0343 \u0345",
    "\x00\x01\x1b[0m\x7f\x80\x9f \ufffd \ufdd0 \uffff \U0010ffff",
    "<|endoftext|>a<|endoftext|> <|endoftext|",
    "<s></s>[CLS][PAD]<unk><pad><|im_start|>",
    "x" * 3_000, "0" * 3_000, " " * 3_000, "\n" * 3_000, "=" * 3_000, "字" * 1_000,
    "abcdefghijklmnopqrstuvwxyz" * 100, "ACGTTGCA" * 300, "ab " * 1_000,
    "def f(self):\n\n\n        return {'a': [1],\t\"b\": None}  \n   \r\n\r\n  # end  ",
]  # fmt: skip
