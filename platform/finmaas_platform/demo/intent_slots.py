"""Values that stand in the slots of the demo's phrasings: amounts, people, shops, dates. No text of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[str]]

_LEVELS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)

_EN: Values = {
    "card": ("debit card", "credit card", "bank card", "Visa card", "savings card", "card", "platinum card"),
    "person": ("my brother", "my sister", "my landlord", "my mother", "Li Wei", "Anna", "my client", "Mr Chen",
               "my friend", "the supplier"),
    "they": ("he", "she"),
    "shop": ("Carrefour", "Amazon", "the petrol station", "Taobao", "Booking", "the gym", "Ikea", "a hotel",
             "the airline", "Walmart", "the pharmacy", "Apple"),
    "place": ("at the station", "in a taxi", "on the bus", "at home", "in my other coat", "at the airport",
              "in the office", "in the shopping mall", "on Main Street", "in the restaurant"),
    "ago": ("yesterday", "last week", "two days ago", "last month", "on Monday", "this morning", "three weeks ago",
            "the other day", "on Friday", "a week ago"),
    "days": ("two weeks", "ten days", "five days", "three weeks", "a month", "over a week"),
    "months": ("three months", "6 months", "one year", "twelve months", "two years"),
    "period": ("last year", "January to March", "2025", "last quarter", "this summer", "May"),
    "times": ("twice", "three times", "five times", "many times"),
    "home": ("yuan", "RMB", "renminbi", "CNY"),
    "foreign": ("dollars", "euros", "US dollars", "yen", "pounds", "Hong Kong dollars", "USD", "EUR"),
    "loan": ("car loan", "mortgage", "personal loan", "student loan", "home loan", "consumer loan"),
    "product": ("money market fund", "bond fund", "Steady Growth 90", "Tian Tian Ying", "gold plan",
                "structured deposit", "wealth product", "index fund"),
    "bill": ("credit card", "electricity bill", "mortgage", "phone bill", "card bill", "gas bill"),
}  # fmt: skip
_ZH: Values = {
    "card": ("借记卡", "信用卡", "储蓄卡", "银行卡", "debit card", "VISA卡", "卡", "工资卡"),
    "person": ("我弟", "我妈", "房东", "李伟", "同事", "客户", "小王", "陈先生", "朋友", "供应商"),
    "shop": ("京东", "淘宝", "加油站", "美团", "携程", "健身房", "宜家", "酒店", "航空公司", "超市", "药店", "Apple"),
    "place": ("地铁站", "出租车上", "公交车上", "家里", "外套口袋", "机场", "办公室", "商场", "人民路", "餐厅"),
    "ago": ("昨天", "上周", "前天", "上个月", "周一", "今天早上", "三周前", "前几天", "周五", "一星期前"),
    "days": ("两周", "十天", "五天", "三个星期", "一个月", "一个多星期"),
    "months": ("三个月", "6个月", "半年", "一年", "两年"),
    "period": ("去年", "一到三月", "2025年", "上季度", "今年夏天", "五月份"),
    "times": ("两次", "三次", "好几次", "五次"),
    "home": ("人民币", "RMB", "人民币现金"),
    "foreign": ("美元", "欧元", "日元", "英镑", "港币", "美金", "USD"),
    "loan": ("车贷", "房贷", "消费贷", "个人贷款", "助学贷款", "信用贷"),
    "product": ("货币基金", "债券基金", "稳健90天", "天天盈", "黄金积存", "结构性存款", "理财", "指数基金"),
    "bill": ("信用卡", "电费", "房贷", "话费", "信用卡账单", "燃气费"),
}


def draw(language: str, rng: random.Random) -> dict[str, str]:
    """One value for every slot of that language."""
    values = {name: rng.choice(choices) for name, choices in (_EN if language == "en" else _ZH).items()}
    low, high = sorted(rng.sample(_LEVELS, 2))
    values["low"], values["high"] = _level(low, language, rng), _level(high, language, rng)
    values["amount"] = _amount(rng, language)
    return values


def _level(value: int, language: str, rng: random.Random) -> str:
    """A round limit as people write it: 20,000, 20000, 20k, 2万."""
    forms = [f"{value:,}", str(value)]
    if language == "en":
        forms += [f"{value // 1000}k"] if value >= 1000 else []
    elif value >= 10_000:
        forms += [f"{value // 10_000}万"]
    elif value >= 1000:
        forms += [f"{value // 1000}千"]
    return rng.choice(forms)


def _amount(rng: random.Random, language: str) -> str:
    """A sum of money as people write it."""
    value = rng.choice((rng.randrange(15, 400), rng.randrange(4, 60) * 50, rng.randrange(2, 30) * 1000))
    if language == "en":
        return rng.choice((f"{value} yuan", f"{value:,} RMB", f"¥{value}", f"${value}", f"{value} dollars"))
    return rng.choice((f"{value}元", f"{value}块", f"¥{value}", f"{value}"))
