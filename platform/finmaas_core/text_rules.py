"""What is looked for in text: personal data in Chinese and English, secrets, injections, promises of returns.

The one list that the gateway's guardrails and the privacy reports of datasets share. It is data and pure checks, and
knows nothing of automata, streams or policies. Patterns are RE2 syntax, without look-around and back-references. A
match is never longer than `max_length` characters and holds no character outside `alphabet`: those two bounds let a
stream go on while only the end of it that may still grow into a match is held back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from finmaas_core import person_names
from finmaas_core import personal_data as checks

_HAN = r"\p{Han}"
_SEP = r"[ \-]?"


class Group(StrEnum):
    """What kind of thing a rule finds."""

    PERSONAL = "personal"
    SECRET = "secret"  # noqa: S105  the kind of a rule, no secret
    INJECTION = "injection"
    PROMISE = "promise"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class TextRule:
    """One thing to find. When the pattern has a group, the group is what was found and the rest is its context.

    `check` sees what was found, and the text right before and after it (at most CONTEXT_CHARS characters each).
    """

    name: str
    group: Group
    pattern: str
    max_length: int
    alphabet: str
    label: str
    check: Callable[[str, str, str], bool] | None = None
    begins_word: bool = False  # its check refuses what begins in the middle of a word of ASCII letters and digits
    least: int = 0  # when the check fails, shorter ends are tried down to this length; 0: only whole groups of digits
    hint: str = ""  # matches wherever the pattern does, and costs an automaton over many rules less


CONTEXT_CHARS = 8
"""How much text on each side of a match a check may look at."""


def automaton_pattern(rule: TextRule) -> str:
    """The pattern for an automaton over many rules, which tells what may match, to be looked at by the rule itself.

    What begins a word is only looked for there: else each letter and digit of a long word begins another match, and the
    automaton makes new states all along (a thousand times as slow on account numbers and identifiers).
    """
    if rule.hint:
        return rule.hint
    return f"(?:^|[^0-9A-Za-z])(?:{rule.pattern})" if rule.begins_word else rule.pattern


# The 100 most frequent family names and the double ones: about 85 % of the people of China.
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔"
    "钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
_DOUBLE = "欧阳|上官|司马|诸葛|皇甫|尉迟|公孙|慕容|令狐|司徒|夏侯|东方|独孤|南宫|端木"
_ZH_NAME = rf"(?:(?:{_DOUBLE})|[{_SURNAMES}]){_HAN}{{1,2}}"
_NAME_CUES = (
    "我是|我叫|本人|姓名是|姓名为|姓名|户名|开户名|持卡人|联系人|收件人|收款人|申请人|借款人|担保人信息|担保人|被保险人|投保人|"
    "受益人改成|受益人|转账到|转账给|客户|老公|老婆|妻子|丈夫|父亲|母亲|儿子|女儿|备注】|还"
)
_PROVINCES = (
    "河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃|"
    "青海|台湾"
)
_PLACE = (
    rf"(?:(?:北京|上海|天津|重庆)市?|(?:{_PROVINCES})省|(?:内蒙古|广西|西藏|宁夏|新疆){_HAN}{{0,3}}自治区)"
    rf"(?:{_HAN}{{1,8}}(?:市|自治州|地区|盟))?(?:{_HAN}{{1,8}}(?:区|县|旗|市))?"
)
_STREET = rf"[{_HAN}0-9A-Za-z]{{1,20}}(?:路|街|道|巷|弄|村|镇|乡|里|胡同)"
_DOORS = rf"(?:[{_HAN}0-9A-Za-z\-]{{0,8}}(?:号|栋|幢|座|单元|室|楼|层)){{1,5}}"
_PLATES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_USCC = "[0-9A-HJ-NPQRTUWXY]"

PERSONAL = (
    TextRule(
        "cn_id_card",
        Group.PERSONAL,
        rf"[1-9][0-9]{{5}}{_SEP}(?:18|19|20)[0-9]{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]){_SEP}[0-9]{{3}}[0-9Xx]",
        20,
        r"0-9Xx \-",
        "身份证号",
        checks.is_id_card,
        begins_word=True,
    ),
    TextRule(
        "bank_card",
        Group.PERSONAL,
        rf"[1-6][0-9](?:{_SEP}[0-9]){{10,17}}",
        37,
        r"0-9 \-",
        "银行卡号",
        checks.is_bank_card,
        begins_word=True,
    ),
    TextRule(
        "cn_mobile",
        Group.PERSONAL,
        rf"(?:\+?86{_SEP})?1[3-9][0-9]{_SEP}[0-9]{{4}}{_SEP}[0-9]{{4}}",
        17,
        r"0-9+ \-",
        "手机号",
        checks.stands_alone_in_digits,
        begins_word=True,
    ),
    TextRule(
        "cn_landline",
        Group.PERSONAL,
        r"\(?0(?:10|2[0-9]|[3-9][0-9]{2})(?:\) ?|[ \-])[2-8][0-9]{6,7}",
        15,
        r"0-9() \-",
        "固定电话",
        checks.stands_alone_in_digits,
        begins_word=True,
    ),
    TextRule(
        "phone",
        Group.PERSONAL,
        r"\+[1-9][0-9]{0,2}[ .\-]?(?:\([0-9]{1,4}\)[ .\-]?)?[0-9]{2,4}(?:[ .\-]?[0-9]{2,4}){1,3}(?:x[0-9]{1,5})?"
        r"|(?:(?:001|1)-)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[\-.])[0-9]{3}[\-.][0-9]{4}(?:x[0-9]{1,5})?",
        39,
        r"0-9+(). \-x",
        "电话号码",
        checks.is_phone,
        begins_word=True,
    ),
    TextRule(
        "email",
        Group.PERSONAL,
        r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,40}\.){1,3}[A-Za-z]{2,12}",
        200,
        r"A-Za-z0-9._%+\-@",
        "电子邮箱",
        checks.stands_alone_in_word,
        begins_word=True,
        hint=r"[A-Za-z0-9._%+\-]@(?:[A-Za-z0-9\-]{1,40}\.){1,3}[A-Za-z]{2,12}",
    ),
    TextRule(
        "cn_passport",
        Group.PERSONAL,
        r"[EG][A-HJ-NP-Z]?[0-9]{7,8}|[DPS]E?[0-9]{7,8}",
        10,
        r"A-Z0-9",
        "护照号",
        checks.is_passport,
        begins_word=True,
    ),
    TextRule(
        "cn_license_plate",
        Group.PERSONAL,
        rf"[{_PLATES}][A-HJ-NP-Z]·?[A-HJ-NP-Z0-9]{{5,6}}",
        9,
        rf"{_PLATES}A-Z0-9·",
        "车牌号",
        checks.stands_alone_in_word,
    ),
    TextRule(
        "cn_uscc",
        Group.PERSONAL,
        rf"[1-9A-HJ-NPQRTUWXY][1-9]{_USCC.replace('A-HJ-NPQRTUWXY', '')}{{6}}{_USCC}{{10}}",
        18,
        r"0-9A-Z",
        "统一社会信用代码",
        checks.is_uscc,
        begins_word=True,
    ),
    TextRule(
        "wechat_id",
        Group.PERSONAL,
        r"(?:wxid_|wx_|v-)[A-Za-z0-9_\-]{5,19}",
        24,
        r"A-Za-z0-9_\-",
        "微信号",
        checks.stands_alone_in_word,
        begins_word=True,
    ),
    TextRule(
        "qq",
        Group.PERSONAL,
        r"(?i:qq)(?:号码?)?[:： ]{0,3}([1-9][0-9]{4,10})",
        18,
        r"Qq号码:： 0-9",
        "QQ号",
        checks.stands_alone_in_digits,
    ),
    TextRule(
        "cn_address",
        Group.PERSONAL,
        rf"{_PLACE}{_STREET}{_DOORS}",
        100,
        rf"{_HAN}0-9A-Za-z\-",
        "地址",
    ),
    TextRule(
        "cn_name",
        Group.PERSONAL,
        rf"(?:{_NAME_CUES})[:：｜ ]?({_ZH_NAME})",
        12,
        rf"{_HAN}:：｜ 】",
        "姓名",
        checks.is_zh_name,
        least=2,
    ),
    TextRule(
        "us_ssn",
        Group.PERSONAL,
        r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        11,
        r"0-9\-",
        "SSN",
        checks.is_ssn,
        begins_word=True,
    ),
    TextRule(
        "iban",
        Group.PERSONAL,
        r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}",
        64,
        r"A-Z0-9 ",
        "IBAN",
        checks.is_iban,
        begins_word=True,
    ),
    TextRule(
        "phone_told",
        Group.PERSONAL,
        r"(?i:(?:phone|mobile|desk|fax|tel)\.?:\s{0,2}|(?:call me|answering|texts?|messages) (?:at|on|to) )"
        r"(\(?\+?[0-9](?:[0-9(). \-]{4,18})[0-9](?:x[0-9]{1,5})?)",
        48,
        r"\p{L}0-9+(). \-:\n",
        "电话号码",
        checks.is_told_phone,
    ),
    TextRule(
        "en_name",
        Group.PERSONAL,
        person_names.PATTERN,
        person_names.MAX_LENGTH,
        r"\p{L}'\-.: ",
        "name",
        person_names.is_en_name,
        begins_word=True,
        hint=person_names.hint_pattern(),
    ),
)

SECRETS = (
    TextRule(
        "private_key",
        Group.SECRET,
        r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
        50,
        r"A-Z \-",
        "private key",
    ),
    TextRule("cloud_key", Group.SECRET, r"(?:AKIA|ASIA|LTAI)[0-9A-Za-z]{12,24}", 28, "0-9A-Za-z", "cloud key"),
    TextRule(
        "api_token",
        Group.SECRET,
        r"(?:sk-|gh[opsur]_|glpat-|xox[abp]-|fm[akjn]_)[0-9A-Za-z_\-]{16,120}",
        126,
        r"0-9A-Za-z_\-",
        "API token",
        checks.stands_alone_before,
        begins_word=True,
    ),
    TextRule(
        "jwt",
        Group.SECRET,
        r"eyJ[0-9A-Za-z_\-]{8,120}\.eyJ[0-9A-Za-z_\-]{8,200}",
        330,
        r"0-9A-Za-z_\-.",
        "token",
    ),
    TextRule(
        "url_password",
        Group.SECRET,
        r"[A-Za-z0-9][A-Za-z0-9+.\-]{1,30}://[^\s/@:\"]{1,48}:[^\s/@\"]{1,48}@",
        135,
        r"!#-~",
        "password in a URL",
        checks.stands_alone_before,
        begins_word=True,
    ),
)

INJECTION = (
    TextRule(
        "ignore_instructions",
        Group.INJECTION,
        r"(?i)(?:ignore|disregard|forget)(?: all| any)?(?: of)?(?: the| your| my)?(?: previous| prior| above| earlier)"
        r"(?: \w{1,16})? (?:instructions?|prompts?|rules|messages?)"
        r"|(?:忽略|无视|忘记)(?:以上|之前|前面|上述)(?:的)?(?:所有|全部|一切)?(?:的)?(?:指令|指示|提示|规则|要求|内容)"
        r"|(?:忽略|无视|忘记)(?:所有|全部|一切)(?:以上|之前|前面|上述)?(?:的)?(?:指令|指示|提示|规则|要求)",
        90,
        rf"\w {_HAN}",
        "injection",
    ),
    TextRule(
        "reveal_prompt",
        Group.INJECTION,
        r"(?i)(?:reveal|print|show|repeat|output)(?: me)?(?: your| the)? "
        r"(?:system prompt|hidden prompt|initial instructions)"
        r"|(?:输出|显示|告诉我|重复|泄露)(?:你的|你)?(?:系统提示词?|系统指令|初始指令|隐藏指令)",
        60,
        rf"\w {_HAN}",
        "injection",
    ),
    TextRule("chat_markup", Group.INJECTION, r"<\|[a-z_]{2,24}\|>|\[/?INST\]", 30, r"<>|a-z_\[\]/A-Z", "injection"),
)

PROMISES = (
    TextRule(
        "promised_return",
        Group.PROMISE,
        "保本保息|保本|保收益|保证收益|承诺收益|稳赚不赔|稳赚|只赚不赔|包赚|零风险|无风险|必涨|刚性兑付"
        r"|(?i:guaranteed (?:return|profit|income)s?|risk[ \-]free return|no risk of loss|cannot lose)",
        24,
        rf"{_HAN}A-Za-z \-",
        "promise",
        checks.is_not_denied,
    ),
)

RULES: dict[str, TextRule] = {rule.name: rule for rule in (*PERSONAL, *SECRETS, *INJECTION, *PROMISES)}

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"
DISGUISED = f"[{INVISIBLE}\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]"
"""Matches a character that `unmask_text` may change."""
_DISGUISED = re.compile(DISGUISED)
_FOLD = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_HIDDEN = re.compile(rf"(?<=[0-9A-Za-z\u4e00-\u9fff])[{INVISIBLE}]+")


def unmask_text(text: str) -> str:
    """The text without disguises: full-width digits and letters folded, invisible characters between words gone.

    An invisible character after anything else than a letter, a digit or an ideograph stays: it joins emoji.
    """
    if _DISGUISED.search(text) is None:
        return text
    return _HIDDEN.sub("", text.translate(_FOLD))
