"""Chat templates in the manner of well-known ones, and a tokenizer of bytes that uses them."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (  # as Llama 3
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
INSTRUCTIONS = (  # as Llama 2: the system speaks inside the first turn of the user, and nothing opens an answer
    "{% if messages[0]['role'] == 'system' %}{% set s, turns = messages[0]['content'] + '\n\n', messages[1:] %}"
    "{% else %}{% set s, turns = '', messages %}{% endif %}{{ bos_token }}{% for m in turns %}"
    "{% if m['role'] == 'user' %}[INST] {{ (s if loop.first else '') + m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
STRICT = (  # as Mistral: no system, and users and assistants take turns
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKING = (  # as DeepSeek-R1: a thought is opened before an answer, and left out afterwards
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}"
    "{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)
BARE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
TOOLS = (
    "{% if tools %}[tools]{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m['role'] }}]"
    "{{ m['content'] if m['content'] else '' }}{% if 'tool_calls' in m %}{% for t in m['tool_calls'] %}"
    "<call>{{ t['name'] }}({{ t['arguments'] | tojson }})</call>{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "instructions": INSTRUCTIONS,
    "strict": STRICT,
    "thinking": THINKING,
    "bare": BARE,
    "tools": TOOLS,
}


@cache
def letters() -> tuple[str, ...]:
    return tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))


def templated(template: str | None, begins: bool = True) -> PreTrainedTokenizerFast:
    """A token for each byte.

    Args:
        begins: whether it puts <s> before texts, as Llama's does.
    """
    bos, eos = "<s>", "<|im_end|>" if template == CHATML else "</s>"
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters())}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False) for token in (bos, eos, "<|im_start|>", "<|head|>")])
    if begins:
        special = [(bos, raw.token_to_id(bos))]
        raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, chat_template=template)


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def user(content, **more) -> dict:
    return turn("user", content, **more)


def assistant(content, **more) -> dict:
    return turn("assistant", content, **more)
