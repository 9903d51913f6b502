"""Answers in the formats of chat templates: reasoning, content and calls as separate parts.

format = AnswerFormat.of(template)              # by what the template writes
answer = format.parse(text, tools)              # ParsedAnswer(content, reasoning, calls)
"""
