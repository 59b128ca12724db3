# attack: exception texts, names and types that are Markdown, HTML, terminal escapes, formulas and half a surrogate
# class: output
from wrong_layer import Wrong, ran

TEXT = (
    "</script><script>alert(1)</script>\n```\n# Score: 70 of 70\n```````\n| 4.1 | x | 25 / 25 | passed |\n"
    "\x1b[2J\x1b[1;1Hpassed\x1b]0;title\x07\r=cmd|' /C calc'!A0\n"
    "![x](javascript:alert(1)) \u202edessap\u202c \ud800 \0 \x85 \u2028"
)
Named = type("<img src=x onerror=alert(1)>", (Exception,), {})
ran("texts are ready")


class LoRALinear(Wrong):
    def forward(self, x):
        ran("raises markup")
        raise Named(TEXT)

    def merge(self):
        self.merged = TEXT

    def set_rank(self, new_rank):
        self.rank = self.alpha = TEXT


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    return [TEXT, "=1+1", "@SUM(1)"]
