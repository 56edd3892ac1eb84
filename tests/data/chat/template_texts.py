"""Chat templates with the structure of those that bases of the field bring, written for these tests.

Each marks what the assistant says with {% generation %}, as transformers asks for; `unmarked` takes the marks away.
"""

import re

CHATML = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{- m.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
{%- else %}{{- m.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_TOOLS = """{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
"""
_CALLS = """{%- if m.tool_calls %}{%- for call in m.tool_calls %}
{%- if (loop.first and said) or not loop.first %}{{- '\\n' }}{%- endif %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}
{%- endfor %}{%- endif %}"""
_RESULTS = """{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"""

# A default system text; calls and results of tools.
QWEN2_5 = (
    _TOOLS
    + """{%- else %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{%- set said = m.content %}{{- '<|im_start|>assistant' }}{{- '\\n' }}{% generation %}
{%- if said %}{{- said }}{%- endif %}"""
    + _CALLS
    + """{{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
{%- elif m.role == 'tool' %}"""
    + _RESULTS
    + """{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
)

# Thoughts are shown behind the last question alone; the last turn always has a place for them.
QWEN3 = (
    _TOOLS
    + """{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- set said = m.content if m.content is string else '' %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{- '<|im_start|>' + m.role + '\\n' + said + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{%- set thoughts = '' %}
{%- if m.reasoning_content is string %}{%- set thoughts = m.reasoning_content %}
{%- elif '</think>' in said %}
{%- set thoughts = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{{- '<|im_start|>assistant\\n' }}{% generation %}
{%- if loop.index0 > ns.last and (loop.last or thoughts) %}
{{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}
{%- else %}{{- said }}{%- endif %}"""
    + _CALLS
    + """{{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
{%- elif m.role == 'tool' %}"""
    + _RESULTS
    + """{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"""
)

# The prompt of generation opens thoughts, which no history shows; the system text stands in front; arguments are text.
R1 = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='', result=false) %}
{%- for m in messages %}{%- if m.role == 'system' %}{%- set ns.system = m.content %}{%- endif %}{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|User|>' + m.content }}
{%- elif m.role == 'assistant' and m.tool_calls %}{{- '<|Assistant|>' }}{% generation %}
{%- for call in m.tool_calls %}{{- '<|call|>' + call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```' }}{%- endfor %}
{{- '<|end|>' }}{% endgeneration %}
{%- elif m.role == 'assistant' %}{%- set said = m.content %}{%- if '</think>' in said %}{%- set said = said.split('</think>')[-1] %}
{%- endif %}
{{- '<|Assistant|>' }}{% generation %}{{- said + '<|end|>' }}{% endgeneration %}
{%- elif m.role == 'tool' %}{{- '<|result|>' + m.content }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}"""

# The same prompt in ChatML; thoughts are cut from every turn.
QWQ = (
    _TOOLS
    + """{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{%- set said = (m.content or '').split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant' }}{{- '\\n' }}{% generation %}{%- if said %}{{- said }}{%- endif %}"""
    + _CALLS
    + """{{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
{%- elif m.role == 'tool' %}"""
    + _RESULTS
    + """{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"""
)

# Contents are trimmed; a call is JSON in place of the content, and ends with another token.
LLAMA3 = """{{- bos_token }}
{%- if tools %}{{- '<|im_start|>system\\n\\n' }}{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
{{- '<|im_end|>' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' and m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{{- '<|im_start|>assistant\\n\\n' }}{% generation %}
{{- '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}{{- m.tool_calls[0].function.arguments | tojson }}{{- '}' }}
{{- '<|call|>' }}{% endgeneration %}
{%- elif m.role == 'tool' %}{{- '<|im_start|>ipython\\n\\n' }}{{- m.content | tojson }}{{- '<|im_end|>' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n\\n' }}{% generation %}
{{- m.content | trim + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{- '<|im_start|>' + m.role + '\\n\\n' + m.content | trim + '<|im_end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}"""

# No generation prompt; roles must alternate; tools stand before the last question.
MISTRAL = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set turns = messages[1:] %}{%- else %}
{%- set turns = messages %}{%- endif %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list %}
{%- for m in turns %}
{%- if m.role == 'user' %}
{%- if tools and m == asked[-1] %}{{- '[TOOLS] ' }}{{- tools | tojson }}{{- '[/TOOLS]' }}{%- endif %}
{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}{%- else %}
{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
{%- elif m.tool_calls %}{% generation %}{{- '[CALLS] [' }}{%- for call in m.tool_calls %}{{- call.function | tojson }}{%- endfor %}
{{- ']' + eos_token }}{% endgeneration %}
{%- elif m.role == 'assistant' %}{% generation %}{{- ' ' + m.content | trim + eos_token }}{% endgeneration %}
{%- elif m.role == 'tool' %}{{- '[RESULT] ' + m.content + '[/RESULT]' }}
{%- else %}{{- raise_exception('Only user, assistant and tool') }}{%- endif %}
{%- endfor %}"""

# The system text joins the first question; the assistant is called model.
GEMMA = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{%- set first = messages[0].content + '\\n\\n' %}{%- set turns = messages[1:] %}
{%- else %}{%- set first = '' %}{%- set turns = messages %}{%- endif %}
{%- for m in turns %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate user/assistant') }}{%- endif %}
{%- if m.role == 'assistant' %}{{- '<start_of_turn>model\\n' }}{% generation %}
{{- m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{- '\\n' }}
{%- else %}{{- '<start_of_turn>user\\n' + (first if loop.first else '') + m.content | trim + '<end_of_turn>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

ZEPHYR = """{%- for m in messages %}
{%- if m.role == 'assistant' %}{{- '<|assistant|>\\n' }}{% generation %}{{- m.content + eos_token }}{% endgeneration %}{{- '\\n' }}
{%- else %}{{- '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{%- endif %}
{%- if loop.last and add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}
{%- endfor %}"""

ALL = {
    "chatml": CHATML, "qwen2.5": QWEN2_5, "qwen3": QWEN3, "r1": R1, "qwq": QWQ, "llama3": LLAMA3, "mistral": MISTRAL,
    "gemma": GEMMA, "zephyr": ZEPHYR,
}  # fmt: skip
TOOLS = ("qwen2.5", "qwen3", "r1", "qwq", "llama3", "mistral")
"""Those that render calls of tools."""
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|User|>", "<|Assistant|>", "<|end|>", "<|call|>", "<|result|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]",
)  # fmt: skip


def unmarked(template):
    return re.sub(r"\{% (end)?generation %\}", "", template)
