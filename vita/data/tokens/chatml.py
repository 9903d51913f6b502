"""The default chat template: ChatML, with the tools, calls and reasoning of Qwen and Hermes.

Each message is `<|im_start|>role`, its content and `<|im_end|>`. Without tools, calls and reasoning, nothing else is
written.
"""

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n\\nCall a function with a JSON object in <tool_call></tool_call>:\\n<tool_call>\\n' }}
    {{- '{"name": "function", "arguments": {}}\\n</tool_call>\\n\\nFunctions:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool['function'] | tojson) }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'system' and loop.first and tools %}
        {%- continue %}
    {%- endif %}
    {%- if message['role'] == 'tool' %}
        {%- if loop.first or loop.previtem['role'] != 'tool' %}
            {{- '<|im_start|>tool' }}
        {%- endif %}
        {{- '\\n' + message['content'] }}
        {%- if loop.last or loop.nextitem['role'] != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- set parts = namespace(reasoning='', calls='') %}
        {%- if message['reasoning_content'] %}
            {%- set parts.reasoning = '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' %}
        {%- endif %}
        {%- for call in message['tool_calls'] or [] %}
            {%- set name, arguments = call['function']['name'] | tojson, call['function']['arguments'] | tojson %}
            {%- set call = '<tool_call>\\n{"name": ' + name + ', "arguments": ' + arguments + '}\\n</tool_call>' %}
            {%- set parts.calls = parts.calls + ('\\n' if message['content'] or parts.calls else '') + call %}
        {%- endfor %}
        {%- set content = parts.reasoning + (message['content'] or '') + parts.calls %}
        {%- generation %}{{ content + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""The template of models that have none."""
