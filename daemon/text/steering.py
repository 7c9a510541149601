"""Finds texts that would steer a model instead of answering: control tokens, turns of other roles, instructions.

The patterns know the usual wordings of a few languages. They are a net with holes: a new wording passes.
"""

from __future__ import annotations

from functools import cache

import regex

from daemon.text.contacts import visible
from daemon.text.words import normalised

_CONTROL = regex.compile(
    r"""<\|[^<>|\n]{1,60}\|> | <\|(?:im_|start|end|eot|system|user|assistant)
      | \[/?\s?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\s?\]
      | <</?SYS>> | </?s> | <(?:bos|eos|pad|unk)> | <(?:start|end)_of_turn> | \[(?:BOS|EOS|gMASK)\]
      | </?(?:system|assistant|user|human|think|thinking|tool_calls?|tool_response|function_calls?|im_start|im_end)>
      | ^\s{0,8}\#{1,6}\s*(?:instructions?|response|system|user|assistant|human)\s*:
      | ^[\s>*_\#"']{0,8}(?:system|assistant|user|human|developer
        |系统|系統|用户|用戶|助手|система|пользователь|ассистент)
        (?:\s(?:prompt|message))?[\s*_"']{0,4}:""",
    regex.VERBOSE | regex.IGNORECASE | regex.MULTILINE,
)
_HIDING = regex.compile(r"[\u202d\u202e]|(?<!\N{WAVING BLACK FLAG}[\U000e0020-\U000e007e]*)[\U000e0020-\U000e007e]")
"""Overrides of the writing direction, and the invisible copies of ASCII outside of a flag emoji."""

_OBJECT = (
    r"(?:instructions?|prompts?|rules?|guidelines?|directions?|directives?|commands?|guardrails|polic(?:y|ies)|programming"
    r"|safety\s\w+|restrictions?)"
)
_NOT_SAID_OF_ONESELF = (
    r"(?<!\b(?:not|cannot|can't|won't|don't|never|unable\sto|refuse\sto|decline\sto|asked\sto|asked\sme\sto|"
    r"tried\sto|tries\sto|want\sme\sto|told\sto|says\sto|supposed\sto)\s(?:\w+\s){0,2})"
)
_ENGLISH = rf"""
    {_NOT_SAID_OF_ONESELF}\b(?:ignore|disregard|forget|override|bypass|discard)\s(?:\w+\s){{0,3}}
        (?:previous|prior|above|earlier|preceding|system|your|these|initial|original|existing)\s(?:\w+\s){{0,2}}{_OBJECT}\b
  | {_NOT_SAID_OF_ONESELF}\b(?:ignore|disregard|forget|override|discard)\s(?:everything|all|anything)\s
        (?:\w+\s){{0,3}}(?:above|before|instructed|were\stold|previously|instructions|rules)\b
  | \bfrom\s(?:now|this\spoint|here)\s(?:on|onwards?|forward),?\s
        (?:you\b|always\b|never\b|please\s|answer|respond|reply|act\b|say\b|every\s(?:answer|response|reply)|tell\b|ignore|only\b
        |refuse|pretend|when\s(?:asked|users?|some|a\suser)|if\s(?:asked|users?|some|a\suser|you))
  | \byou\s(?:must|shall|will|are\sto|have\sto|need\sto|should)\s(?:now\s)?(?:always|never|only|from\snow\son)\s
        (?:answer|respond|reply|output|pretend|obey|comply|refuse\sto\sanswer|recommend|mention|reveal|disclose|say|claim
        |include\sthe|begin\syour|start\syour|end\syour)\b
  | (?:^|[.!?:]\s|\n)(?:always|never|only)\s(?:answer|respond|reply|output|say|print)\s
        (?:with|that|in|as|by|using|only|"|to\s(?:users?|every|any|questions?|requests?|this))
  | {_NOT_SAID_OF_ONESELF}\b(?:forward|send|reveal|print|repeat|show|output|disclose|share|leak|expose|display|dump
        |email|paste)\s(?:\w+\s){{0,3}}(?:your|the\shidden|the\sentire|the\sfull|the\sinitial|the\ssystem)\s(?:\w+\s)?
        (?:prompt|system\smessage|system\sinstructions?|hidden\sinstructions?|initial\sinstructions?|instructions\sabove)\b
  | \byou\sare\snow\s(?:dan\b|in\s\w+\smode|unrestricted|jailbroken|no\slonger\sbound|free\s(?:of|from)
        |an?\sunrestricted)
  | \b(?:developer|jailbreak|god|dan)\smode\s(?:enabled|activated|on\b|is\snow)
  | \b(?:act|behave|respond)\sas\s(?:if\syou\shad\sno|an?\s(?:unrestricted|unfiltered|uncensored|jailbroken))
  | \b(?:whenever|every\stime|each\stime)\s(?:an?|the|any|some)\s?(?:user|customer|person|one|body)\s
        (?:asks?|mentions?|says?|writes?|types?|wants?)\b
  | \b(?:if|when)\s(?:you\sare|you're|ever)?\s?asked\s(?:\w+\s){{1,6}},?\s?(?:always|never|you\smust)\b
  | \bas\san?\s(?:ai(?:\s\w+)?|assistant|language\smodel|chatbot|llm),?
        \syou\s(?:must|shall|should|will|are\sto|have\sto)\b
  | \b(?:new|updated|revised|secret|hidden)\s(?:system\s)?(?:instructions?|directives?|prompt)\s?:
  | \bsystem\s(?:update|override|notice|prompt)\s?:
  | \b(?:important|attention|note|message|instructions?)\s(?:to|for)\s(?:the\s|all\s|any\s)?
        (?:ais?|ai\s\w+|assistants?|llms?|language\smodels?|chatbots?)\b
  | \b(?:do\snot|don't|never)\s(?:tell|inform|reveal\s(?:this|it)\sto|mention\s(?:this|it)\sto|let)
        \s(?:the\s|any\s)?users?\b"""

_OTHERS = r"""
    \b(?:ignorier\w*|missacht\w*|vergiss|vergessen\ssie)\s(?:\w+\s){0,3}
        (?:vorherig\w+|bisherig\w+|obig\w+|früher\w+|vorangegangen\w+|deine|ihre)\s(?:\w+\s)?
        (?:anweisung\w*|regeln|vorgaben|befehle|instruktionen)
  | \b(?:ab\s(?:jetzt|sofort)|von\snun\san|von\sjetzt\san)\s(?:\w+\s){0,2}
        (?:antwort\w*|musst|sollst|wirst|sagst|sag|du|immer)\b
  | \bdu\s(?:musst|sollst)\s(?:immer|stets|nie|niemals)\s(?:\w+\s){0,4}(?:antworten|sagen|ausgeben|verweigern|empfehlen)
  | \b(?:dein\w*|ihr\w*)\s(?:system-?\s?prompt|systemanweisung\w*|systemnachricht)
  | \b(?:ignore[zs]?|oublie[zs]?)\s(?:toute?s?\s)?(?:les|tes|vos|ces)\s(?:\w+\s){0,2}
        (?:instructions?|consignes|règles)\b
  | \b(?:à\spartir\sde\smaintenant|désormais),?\s(?:tu|vous|réponds|répondez|dis|dites)\b
  | \b(?:tu\sdois|vous\sdevez)\s(?:toujours|jamais)\s(?:répondre|dire|refuser|recommander)
  | \b(?:ton|votre)\s(?:prompt|message|invite)\s(?:système|de\ssystème)
  | \b(?:ignora|ignore|olvida|olvide|omite|esquece|esqueça|dimentica)\s(?:\w+\s){0,4}
        (?:instrucciones|reglas|instruções|regras|istruzioni|regole)\b
  | \b(?:a\spartir\sde\s(?:ahora|agora)|de\sahora\sen\sadelante|d'ora\sin\spoi|da\sora\sin\spoi),?\s
        (?:\w+\s){0,1}(?:debes|responde\w*|di|tienes|siempre|deve\w*|sempre|rispond\w*|devi|você|tú)\b
  | \b(?:debes|tienes\sque|você\sdeve|devi)\s(?:siempre|nunca|sempre|mai|responder\ssempre|rispondere\ssempre)\s
        (?:responder|decir|dizer|rispondere|dire|recomendar)?
  | \b(?:tu|su|seu|teu|tuo|il\stuo)\s(?:prompt|mensaje|mensagem|messaggio)\s(?:del?|do|di)\ssist
  | \b(?:negeer|vergeet)\s(?:\w+\s){0,3}(?:instructies|regels|opdrachten)
  | \bvanaf\snu\s(?:moet|antwoord|zeg|geef)
  | \b(?:zignoruj|ignoruj|zapomnij)\s(?:\w+\s){0,4}(?:instrukcj\w+|polecen\w+|zasad\w*)
  | \b(?:игнорируй\w*|проигнорируй\w*|забудь\w*)\s(?:\w+\s){0,4}(?:инструкци\w+|указани\w+|правил\w*)
  | \b(?:отныне|с\sэтого\sмомента|впредь),?\s(?:\w+\s){0,2}(?:отвечай\w*|говори\w*|ты\sдолжен|вы\sдолжны|всегда)
  | \b(?:önceki|yukarıdaki)\s(?:\w+\s){0,2}(?:talimat\w*|kural\w*)\s(?:\w+\s)?(?:yok\ssay|görmezden|unut)
  | (?:忽略|无视|無視|忘记|忘記|不要理会).{0,10}(?:指令|指示|提示|规则|規則|要求)
  | (?:从现在开始|從現在開始|从现在起|今后|今後)[,，]?.{0,3}(?:你|必须|必須|请|總是|总是|回答|只)
  | 你(?:必须|必須|应该|應該|要)(?:总是|總是|始终|始終|永远|永遠|一律)
  | (?:你的|您的)(?:系统|系統)(?:提示|指令|消息)
  | (?:以前|これまで|上記|前)の(?:すべての|全ての)?(?:指示|命令|ルール|プロンプト)を(?:すべて|全て)?(?:無視|忘れ)
  | (?:今後|これから)は?、?.{0,12}(?:答えて|回答して|返答して|と答え)
  | (?:이전|위의|앞의)\s?(?:모든\s?)?(?:지시|명령|지침|규칙)\S*\s?(?:모두\s?)?(?:무시|잊)
  | (?:지금부터|이제부터)\s?(?:너는|당신은|항상|답변)
  | (?:تجاهل|انس)\s(?:\w+\s){0,3}(?:التعليمات|الأوامر|تعليمات)
  | (?:पिछले|पूर्व|उपरोक्त)\s(?:\w+\s){0,2}(?:निर्देश\w*)"""  # noqa: RUF001 - Russian, Chinese


def control_tokens(text: str) -> str | None:
    """The first control token, turn of a role, or hiding character."""
    hiding = _HIDING.search(text)
    if hiding is not None:
        return f"U+{ord(hiding[0]):04X}"
    found = _CONTROL.search(visible(text))
    return found[0].strip() if found else None


def instructions(text: str, source: str) -> str | None:
    """The first instruction for a model that is not quoted from the source."""
    known = None
    for found in _instructions().finditer(normalised(text)):
        known = normalised(source) if known is None else known
        if found[0].strip() not in known:
            return str(found[0].strip())
    return None


@cache
def _instructions() -> regex.Pattern[str]:
    return regex.compile(f"{_ENGLISH}|{_OTHERS}", regex.VERBOSE)
