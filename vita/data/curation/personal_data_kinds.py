"""All kinds of personal data in the order in which they are masked, and the kinds of addresses.

Keys are in `personal_data_keys`, secrets after a name in `personal_data_secrets`, passwords in commands and statements
in `personal_data_commands`, numbers in `personal_data_numbers`, and national ids in `personal_data_ids`.
"""

from __future__ import annotations

import re

from vita.data.curation import identifiers as ids
from vita.data.curation.personal_data_commands import COMMAND_KEY, COMMAND_KEY_CANDIDATE
from vita.data.curation.personal_data_forms import DASHES, SPACES, PersonalDataKind, form
from vita.data.curation.personal_data_ids import NAMED_NATIONAL_ID, NATIONAL_ID
from vita.data.curation.personal_data_keys import KEY, KEY_PREFIXES
from vita.data.curation.personal_data_numbers import CARD, IBAN, NAMED_PHONE, PHONE
from vita.data.curation.personal_data_secrets import NAMED_KEY, NAMED_KEY_CANDIDATE

_LATIN = "A-Za-z0-9\u00c0-\u024f"
_LOGOGRAPHIC = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""Characters of scripts without spaces: text can follow a domain directly."""
_LOGOGRAPHIC_ENDINGS = (
    "嘉里大酒店|通用电气公司|组织机构|电讯盈科|電訊盈科|天主教|飞利浦|淡马锡|诺基亚|亚马逊|新加坡|我爱你|中文网|公司|中国|中國|网络|網絡|香港"
    "|台湾|台灣|臺灣|澳門|澳门|商城|商店|商标|网站|网址|网店|在线|中信|政务|政府|公益|集团|机构|移动|手机|手表|广东|佛山|游戏|餐厅|健康|信息"
    "|娱乐|购物|企业|食品|八卦|慈善|时尚|联通|新闻|招聘|微博|通販|書籍|家電|点看|珠宝|谷歌|大拿|嘉里|世界|工行"
    "|ファッション|グーグル|クラウド|ポイント|アマゾン|ストア|セール|みんな|コム|한국|삼성|닷넷|닷컴"
)
"""The top-level domains in these scripts (IANA root zone); longer ones come before their beginnings."""
_AT_HINT = r"[\[({<] ?(?:at|AT) ?[\])}>]"
_AT = r"(?:@| ?[\[({<] ?(?:at|AT) ?[\])}>] ?)"
_DOT = r"(?:\.| ?[\[({<] ?(?:dot|DOT) ?[\])}>] ?)"
_RESERVED_DOMAIN = re.compile(r"(?:@|\.)example\.(?:com|net|org|edu)$|\.(?:example|invalid|localhost|test)$", re.I)


def _is_personal_address(address: str) -> bool:
    """Return True unless the domain is reserved for examples (RFC 2606), or the address is that of a Git server."""
    return not _RESERVED_DOMAIN.search(address) and not address.startswith("git@")


def _has_foreign_domain(address: str) -> bool:
    """Return True if the domain has letters outside of ASCII and is not reserved for examples."""
    return not address.rpartition("@")[2].isascii() and _is_personal_address(address)


_EMAIL = PersonalDataKind(
    "email",
    "<EMAIL>",
    rf"[^\s@]@[^\s@]+[.\])}}>][ A-Za-z]|{_AT_HINT}",
    (
        form(
            rf"[{_LATIN}_%+-](?<![{_LATIN}_%+-].)[{_LATIN}._%+'-]{{0,63}}{_AT}"
            rf"(?:[{_LATIN}][{_LATIN}-]{{0,62}}{_DOT}){{1,8}}[A-Za-z]{{2,24}}(?![{_LATIN}])",
            _is_personal_address,
        ),
    ),
)
_FOREIGN_EMAIL = PersonalDataKind(
    "email",
    "<EMAIL>",
    r"[^\s@]@[^\s@]*[^\x00-\x7f]",
    (
        form(  # a domain in another script, after a local part in ASCII, or else in any script
            rf"(?:[A-Za-z0-9_%+-](?<![A-Za-z0-9_.%+-].)[A-Za-z0-9._%+-]{{0,63}}|[^\W_](?<!\w.)[\w.%+-]{{0,63}}(?<![A-Za-z]))"
            rf"@(?:[^\W_][\w-]{{0,62}}\.){{1,8}}(?:{_LOGOGRAPHIC_ENDINGS}|{_LOGOGRAPHIC}{{2,4}}(?!{_LOGOGRAPHIC})"
            rf"|(?:(?!{_LOGOGRAPHIC})[^\W\d_]){{2,24}}|xn--[a-z0-9-]{{2,59}})",
            _has_foreign_domain,
        ),
    ),
)
_IP = PersonalDataKind(
    "ip",
    "<IP_ADDRESS>",
    r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:",
    (
        form(
            r"[0-9](?<![\w.-].)(?<![vV]ersion .)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![\w-]|\.[0-9])",
            ids.is_public_address,
        ),
        form(
            r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){1,6}(?![\w:])", ids.is_public_address
        ),
        form(  # zeros after the first group, of which only those that are allocated can be told from `2262::4`
            r"2(?<![\w:.].)(?:00[1-3]|4[01][0-9A-Fa-f]|6[0-4][0-9A-Fa-f]|800|[Aa][01][0-9A-Fa-f]|[Cc]0[Ff])"
            r":(?::[0-9A-Fa-f]{1,4}){1,6}(?![\w:])",
            ids.is_public_address,
        ),
    ),
)

EMAIL_KINDS = (_EMAIL, _FOREIGN_EMAIL)
CANDIDATE = (
    rf"[0-9](?:[-./(){SPACES}{DASHES}]{{0,3}}[0-9]){{5}}|@|{_AT_HINT}|[0-9]\.[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]"
    rf"|[23][0-9A-Fa-f]{{3}}:[0-9A-Fa-f]{{0,4}}:|[A-Z]{{6}}[0-9]{{2}}|PRIVATE KEY|{KEY_PREFIXES}|{NAMED_KEY_CANDIDATE}"
    rf"|{COMMAND_KEY_CANDIDATE}"
)
"""A pattern that occurs wherever one of the hints does. RE2 searches it several times as fast as all hints together."""
KINDS = (
    KEY,
    NAMED_KEY,
    COMMAND_KEY,
    _EMAIL,
    _FOREIGN_EMAIL,
    IBAN,
    CARD,
    NATIONAL_ID,
    NAMED_NATIONAL_ID,
    PHONE,
    NAMED_PHONE,
    _IP,
)
"""All kinds, in the order in which they are masked: longer numbers first, of which others may be parts.

A kind whose forms have different hints occurs more than once.
"""
