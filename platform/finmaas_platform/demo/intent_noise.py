"""What real messages have around and inside the request: greetings, asides, typos, words of the other language.

Everything here leaves the intent of a message as it was.
"""

from __future__ import annotations

import random

_OPENERS = {
    "en": ("hi, ", "hello, ", "good morning, ", "hey, ", "dear bank, ", "excuse me, ", "hi there, ", "quick question: ",
           "sorry to bother you, ", "so, ", "hello? ", "urgent: "),
    "zh": ("你好,", "您好,", "请问一下,", "在吗,", "客服你好,", "麻烦问下,", "早上好,", "打扰了,",
           "急,", "hi,", "那个,"),
}  # fmt: skip
_CLOSERS = {
    "en": (" thanks", " thank you", " please help", " thanks in advance", " asap please", " cheers", " kind regards",
           " I'm getting worried", " please let me know"),
    "zh": (",谢谢", ",麻烦了", ",急", ",请尽快处理", ",多谢", ",辛苦了", ",在线等", ",帮帮忙", ",thanks"),
}  # fmt: skip
_ASIDES = {
    "en": (
        "this is not about {topic}. {request}",
        "thanks for your help with {topic}. now: {request}",
        "{topic} is settled, but {request}",
        "last time I asked about {topic}, today it is this: {request}",
        "{request}. it has nothing to do with {topic}",
        "{request}. (forget about {topic}, that is solved)",
        "first I wanted to ask about {topic}, but never mind, {request}",
        "your chatbot keeps telling me about {topic}. {request}",
    ),
    "zh": (
        "不是问{topic},{request}",
        "{topic}已经解决了,现在{request}",
        "上次问过{topic},这次是:{request}",
        "{request},和{topic}没关系",
        "{request},{topic}不用管了",
        "本来想问{topic},算了,{request}",
        "机器人老是给我答{topic},{request}",
        "谢谢帮我处理{topic},还有个问题,{request}",
    ),
}
# Two matters in one message: {request} is what the customer wants now; {other} is over, somebody else's or
# misunderstood. Most people tell the old matter first.
_TWO_MATTERS = {
    "en": (
        "({ago}|last time|earlier) I (asked|wrote): {other}. (that is settled|it's solved), (now|but today): {request}",
        "({ago}|last time|earlier) I (told|asked) you this: {other}. (all done|it's fine). (new|now): {request}",
        "{other} - (sorry, wrong|no wait, scrap that|forget it, not that). {request}",
        "({person}|my colleague) (already asked|is asking) you: {other}. (my own|mine is another) question: {request}",
        "(I'm not asking|don't tell me, I know|this is not it): {other}. (I ask|my question|what I want): {request}",
        (
            "(your bot|the hotline|your colleague) (understood|noted down): {other}. "
            "(I said|I meant|correct is): {request}"
        ),
        "two (things|questions). {other}: (solved|answered|done). {request}: (open|not answered|what now)",
        "(at first|this morning) I (thought|wanted to ask): {other}. (but no|it turned out|really it is): {request}",
        "{request}. ({ago}|last time|before) (it was|I asked): {other}, (but that is over|that is solved by now)",
        "{request}. (not to be mixed up with|this is not|I do not mean): {other}",
    ),
    "zh": (
        "({ago}|上次|之前)我(问过|说过|反映过):{other}。(已经解决了|办好了|没事了),(现在|今天|这次)是:{request}",
        "({ago}|上次|之前)(问的是|说的是):{other},(那个已经好了|那件事过去了)。(现在|今天)(想问|是):{request}",
        "{other}……(说错了|不对|算了不问这个),(我是想说|应该是|要问的是){request}",
        "{person}(已经问过|在问)你们:{other}。我(自己|这边)(的问题是|想问):{request}",
        "(不是要问|别再回答|我没说):{other}。(我问的是|我的问题是|我要的是):{request}",
        "(机器人|热线|你们同事)(理解成|记成了):{other}。(我说的是|我的意思是|正确的是):{request}",
        "两件事。{other}:(解决了|答复了|办完了)。{request}:(还没办|没答复|怎么办)",
        "(一开始|早上)我(以为|想写的)是:{other}。(后来发现|其实是|结果是):{request}",
        "{request}。({ago}|上次|之前)(问的是|说的是):{other},(那个已经好了|那件事过去了)",
        "{request}。(别和这个搞混|我不是说|不是这个):{other}",
    ),
}
_HOMOPHONES = (("账", "帐"), ("登录", "登陆"), ("在", "再"), ("的", "得"), ("已经", "以经"), ("收到", "受到"),
               ("什么", "神马"), ("怎么", "咋"), ("没", "莫"), ("转账", "转帐"))  # fmt: skip
_MIXED = {
    "en": (("credit card", "信用卡"), ("refund", "退款"), ("transfer", "转账"), ("mortgage", "房贷"),
           ("verification code", "验证码"), ("password", "密码"), ("statement", "流水")),
    "zh": (("验证码", "OTP"), ("转账", "transfer"), ("密码", "password"), ("退款", "refund"), ("账户", "account"),
           ("限额", "limit"), ("激活", "activate"), ("定期", "fixed deposit"), ("信用卡", "credit card")),
}  # fmt: skip


def add_aside(request: str, topic: str, language: str, rng: random.Random) -> str:
    """Mention another matter that is not what the customer wants now."""
    return rng.choice(_ASIDES[language]).format(topic=topic, request=request)


def choose_two_matters(language: str, rng: random.Random) -> str:
    """A pattern with the slots {request}, what the customer wants now, and {other}, what is not asked about."""
    return rng.choice(_TWO_MATTERS[language])


def roughen(text: str, language: str, rng: random.Random) -> str:
    """Greeting, closing, case and punctuation, now and then a typo or a word of the other language."""
    if rng.random() < 0.3:
        text = rng.choice(_OPENERS[language]) + text
    if rng.random() < 0.2:
        text += rng.choice(_CLOSERS[language])
    if rng.random() < 0.05:
        text = _mix(text, language, rng)
    return _rough_english(text, rng) if language == "en" else _rough_chinese(text, rng)


def _rough_english(text: str, rng: random.Random) -> str:
    if rng.random() < 0.1:
        text = _mistype(text, rng)
    if rng.random() < 0.15:
        text = text.replace("'", "")
    style = rng.random()
    if style < 0.3:
        return text.lower()
    return text[0].upper() + text[1:] + rng.choice(("", ".", "?", "!"))


def _rough_chinese(text: str, rng: random.Random) -> str:
    if rng.random() < 0.1:
        right, wrong = rng.choice(_HOMOPHONES)
        text = text.replace(right, wrong, 1)
    style = rng.random()
    if style < 0.2:
        return text.replace(",", " ")
    if style < 0.7:
        text = text.replace(",", ",")
    return text + rng.choice(("", "", "。", "?", "!"))


def _mistype(text: str, rng: random.Random) -> str:
    """One slip in one longer word: two letters swapped, one left out, or one doubled."""
    words = text.split(" ")
    longer = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not longer:
        return text
    at = rng.choice(longer)
    word = words[at]
    i = rng.randrange(1, len(word) - 1)
    slips = (word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:])
    words[at] = rng.choice(slips)
    return " ".join(words)


def _mix(text: str, language: str, rng: random.Random) -> str:
    present = [pair for pair in _MIXED[language] if pair[0] in text]
    if not present:
        return text
    own, other = rng.choice(present)
    return text.replace(own, other, 1)
